"""Laws of the group algebra, on a spec with every kind of axis."""

import pytest
import torch

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.spec import Axis, Factor, Group, PermutationSpec

HEADS, QK, UNITS = 3, 4, 5
SPEC = PermutationSpec(
    groups={
        "heads": Group("heads", HEADS),
        "qk": Group("qk", QK, within="heads"),
        "units": Group("units", UNITS),
    },
    axes={
        "qkv": (
            Axis(
                (
                    (Factor(HEADS, "heads"), Factor(QK, "qk")),
                    (Factor(2),),
                    (Factor(HEADS, "heads"), Factor(2)),
                )
            ),
            Axis.units("units", UNITS),
        ),
        "flat": (Axis.fixed(2), Axis(((Factor(7), Factor(UNITS, "units")),))),
        "square": (Axis.units("units", UNITS), Axis.units("units", UNITS)),
    },
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def example(generator, *batch):
    return {
        name: torch.randn(*batch, *(axis.size for axis in axes), generator=generator)
        for name, axes in SPEC.axes.items()
    }


@pytest.mark.parametrize("batch", [(), (6,)])
def test_inverse_undoes_apply_bit_for_bit(generator, batch):
    state, p = example(generator, *batch), perm.random(SPEC, generator, batch)
    back = perm.apply(SPEC, perm.invert(SPEC, p), perm.apply(SPEC, p, state))
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("batch", [(), (6,)])
def test_compose_is_apply_after_apply(generator, batch):
    state = example(generator, *batch)
    p, q = perm.random(SPEC, generator, batch), perm.random(SPEC, generator, batch)
    once = perm.apply(SPEC, perm.compose(SPEC, p, q), state)
    twice = perm.apply(SPEC, q, perm.apply(SPEC, p, state))
    assert all(torch.equal(once[name], twice[name]) for name in state)


def test_composition_is_associative(generator):
    p, q, r = (perm.random(SPEC, generator) for _ in range(3))
    left = perm.compose(SPEC, perm.compose(SPEC, p, q), r)
    right = perm.compose(SPEC, p, perm.compose(SPEC, q, r))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_batch_equals_one_at_a_time(generator):
    state, p = example(generator, 4), perm.random(SPEC, generator, (4,))
    together = perm.apply(SPEC, p, state)
    for row in range(4):
        alone = perm.apply(SPEC, {k: v[row] for k, v in p.items()}, {k: v[row] for k, v in state.items()})
        assert all(torch.equal(together[name][row], alone[name]) for name in state)


def test_nested_channels_follow_their_head(generator):
    p = perm.identity(SPEC)
    p["heads"] = torch.tensor([2, 0, 1])
    p["qk"][0] = torch.tensor([3, 2, 1, 0])
    index = perm.axis_index(SPEC, SPEC.axes["qkv"][0], p)
    assert index[:QK].tolist() == [11, 10, 9, 8]
    assert index[QK : 2 * QK].tolist() == [0, 1, 2, 3]


def test_spec_survives_json():
    assert PermutationSpec.from_json(SPEC.to_json()) == SPEC


def test_wrong_shape_names_the_tensor(generator):
    state = example(generator)
    state["square"] = state["square"][:4]
    with pytest.raises(InputError, match=r"square has shape \(4, 5\), the spec expects \(5, 5\)"):
        perm.apply(SPEC, perm.identity(SPEC), state)


def test_conflicting_sizes_name_the_group():
    with pytest.raises(InputError, match="group 'c': b axis 0 gives 4 units, the group has 3"):
        PermutationSpec(groups={"c": Group("c", 3)}, axes={"b": (Axis.units("c", 4),)})
