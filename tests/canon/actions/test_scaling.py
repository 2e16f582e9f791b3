"""The balance keeps the function, is least, unique and repeatable."""

import pytest
import torch

from canon.actions import scaling
from canon.errors import InputError
from canon.spec import Axis, Factor, Group, PermutationSpec
from tests.canon.examples import mlp, run_mlp, weights

SPEC = mlp(6, 5, 4, 3)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def energy(state):
    return sum(t.square().sum() for t in state.values())


def random_scales(spec, generator, *batch):
    return {
        name: torch.randn(*batch, *spec.shape(name), generator=generator, dtype=torch.float64).exp()
        for name in spec.groups
    }


@pytest.mark.parametrize("batch", [(), (4,)])
def test_function_is_preserved(generator, batch):
    state = weights(SPEC, generator, *batch)
    x = torch.randn(*batch, 10, 6, generator=generator, dtype=torch.float64)
    _, balanced = scaling.balance(SPEC, state, stacked=bool(batch))
    torch.testing.assert_close(run_mlp(balanced, x), run_mlp(state, x), rtol=1e-12, atol=1e-12)


def test_scales_lead_from_the_state_to_the_balanced_one(generator):
    state = weights(SPEC, generator)
    scales, balanced = scaling.balance(SPEC, state)
    again = scaling.apply_scale(SPEC, scales, state)
    assert all(torch.equal(again[name], balanced[name]) for name in state)


def test_every_orbit_has_one_balance(generator):
    state = weights(SPEC, generator)
    elsewhere = scaling.apply_scale(SPEC, random_scales(SPEC, generator), state)
    one, other = scaling.balance(SPEC, state)[1], scaling.balance(SPEC, elsewhere)[1]
    for name in state:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9)


def test_no_rescaling_has_less_energy(generator):
    _, balanced = scaling.balance(SPEC, weights(SPEC, generator))
    for _ in range(20):
        assert energy(scaling.apply_scale(SPEC, random_scales(SPEC, generator), balanced)) > energy(balanced)


def test_many_equal_one_at_a_time(generator):
    states = weights(SPEC, generator, 3)
    _, together = scaling.balance(SPEC, states, stacked=True)
    for row in range(3):
        _, alone = scaling.balance(SPEC, {name: t[row] for name, t in states.items()})
        for name in alone:
            torch.testing.assert_close(together[name][row], alone[name], rtol=1e-9, atol=1e-9)


def test_dead_units_stay(generator):
    state = weights(SPEC, generator)
    state["layers.2.weight"][:, 1] = 0
    scales, balanced = scaling.balance(SPEC, state)
    assert scales["h1"][1] == 1
    assert all(t.isfinite().all() for t in balanced.values())


def test_units_that_feed_their_own_kind(generator):
    u = Group("u", 6, scale="positive")
    spec = PermutationSpec(
        {"u": u},
        {
            "square": (Axis.units("u", 6, power=1), Axis.units("u", 6, power=-1)),
            "in": (Axis.units("u", 6, power=1),),
        },
    )
    state = weights(spec, generator)
    _, balanced = scaling.balance(spec, state)
    for _ in range(20):
        assert energy(scaling.apply_scale(spec, random_scales(spec, generator), balanced)) > energy(balanced)


def test_channels_within_heads(generator):
    heads, vo = Factor(2, "heads"), Factor(3, "vo", 1)
    spec = PermutationSpec(
        {"heads": Group("heads", 2), "vo": Group("vo", 3, within="heads", scale="positive")},
        {
            "value": (Axis(((heads, vo),)), Axis.fixed(4)),
            "out": (Axis.fixed(4), Axis(((heads, Factor(3, "vo", -1)),))),
        },
    )
    state = weights(spec, generator)
    scales, balanced = scaling.balance(spec, state)
    assert scales["vo"].shape == (2, 3)
    torch.testing.assert_close(balanced["value"].norm(dim=1), balanced["out"].norm(dim=0))
    torch.testing.assert_close(balanced["out"] @ balanced["value"], state["out"] @ state["value"])


def test_groups_without_scale_are_left_alone(generator):
    spec = mlp(6, 5, 3, scale="none")
    state = weights(spec, generator)
    scales, balanced = scaling.balance(spec, state)
    assert scales == {}
    assert all(torch.equal(balanced[name], state[name]) for name in state)


def test_unknown_power_is_refused(generator):
    spec = PermutationSpec({"u": Group("u", 3, scale="positive")}, {"w": (Axis.units("u", 3, power=2),)})
    with pytest.raises(InputError, match=r"powers \[2\]"):
        scaling.balance(spec, weights(spec, generator))
