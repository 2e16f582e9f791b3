"""Units within those of another axis: the laws of the group hold in the tensors' own axes."""

import pytest
import torch

import canon
from canon.actions import permutation
from canon.actions.canonical_form import canonicalize
from canon.actions.joined_axes import join, joined, part
from canon.actions.scaling import apply_scale, balance
from canon.errors import InputError
from canon.spec import Axis, Factor, Group, PermutationSpec

EXPERTS, UNITS, INPUTS = 3, 4, 2
INNER = Factor(UNITS, "units", 1)
SPEC = PermutationSpec(
    {"experts": Group("experts", EXPERTS), "units": Group("units", UNITS, "experts", "positive")},
    {
        "router": (Axis.units("experts", EXPERTS), Axis.fixed(INPUTS)),
        "up": (Axis.units("experts", EXPERTS), Axis(((Factor(UNITS, "units"),), (INNER,))), Axis.fixed(INPUTS)),
        "down": (Axis.fixed(INPUTS), Axis.units("experts", EXPERTS), Axis(((Factor(UNITS, "units", -1),),))),
        "bias": (Axis(((INNER,),)), Axis.units("experts", EXPERTS)),
    },
)  # fmt: skip


def draw(*batch):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: [axis.size for axis in axes] for name, axes in SPEC.axes.items()}
    return {n: torch.randn(*batch, *shape, generator=generator).double() for n, shape in shapes.items()}


def run(state, x):
    gate = torch.einsum("eui,bi->beu", state["up"][:, :UNITS], x)
    up = torch.einsum("eui,bi->beu", state["up"][:, UNITS:], x) + state["bias"].T
    out = torch.einsum("ieu,beu->bei", state["down"], gate.tanh() * up)
    return (out * (x @ state["router"].T).softmax(-1)[..., None]).sum(1)


def test_the_function_is_kept_and_the_inverse_undoes():
    state, x, generator = draw(), torch.randn(5, INPUTS).double(), torch.Generator().manual_seed(1)
    element = canon.random(SPEC, generator)
    assert element["units"].shape == (EXPERTS, UNITS)
    moved = canon.apply(SPEC, element, state)
    scaled = apply_scale(SPEC, {"units": torch.rand(EXPERTS, UNITS) + 0.5}, moved)
    torch.testing.assert_close(run(scaled, x), run(state, x), rtol=1e-12, atol=1e-12)
    back = canon.apply(SPEC, canon.invert(SPEC, element), moved)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    second = canon.random(SPEC, generator)
    one = canon.apply(SPEC, canon.compose(SPEC, element, second), state)
    two = canon.apply(SPEC, second, moved)
    assert all(torch.equal(one[name], two[name]) for name in state)


def test_joined_axes_are_parted_again():
    state = draw(7)
    flat, (laid,) = joined(SPEC, state, batch=1)
    flat.check(laid, batch=1)
    assert not flat.joins
    for name in SPEC.joins:
        assert torch.equal(part(SPEC, name, join(SPEC, name, state[name], 1), 1), state[name])
    assert canon.PermutationSpec.from_json(SPEC.to_json()) == SPEC


def test_planted_orders_come_back_and_canonical_forms_agree():
    state, generator = draw(), torch.Generator().manual_seed(2)
    moved = canon.apply(SPEC, canon.random(SPEC, generator), state)
    match = canon.match_weights(SPEC, state, moved)
    back = canon.apply(SPEC, match.permutation, moved)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    ours, theirs = canonicalize(SPEC, state), canonicalize(SPEC, moved)
    assert all(torch.equal(ours[name], theirs[name]) for name in state)
    x = torch.randn(5, INPUTS).double()
    torch.testing.assert_close(run(balance(SPEC, state)[1], x), run(state, x))
    many = permutation.random(SPEC, generator, (4,))
    stacked = permutation.apply(SPEC, many, {name: t.expand(4, *t.shape) for name, t in state.items()})
    found = canon.match_weights(SPEC, state, stacked)
    back = permutation.apply(SPEC, found.permutation, stacked)
    assert all(torch.equal(back[name], t.expand(4, *t.shape)) for name, t in state.items())


def test_a_group_needs_its_outer_group_in_the_same_tensor():
    with pytest.raises(InputError, match="must name its outer group 'experts' before it"):
        PermutationSpec(SPEC.groups, {"up": (Axis.fixed(3), Axis(((INNER,),)))})
    with pytest.raises(InputError, match="two axes with units within those of another axis"):
        PermutationSpec(SPEC.groups, {"up": (Axis.units("experts", 3), Axis(((INNER,),)), Axis(((INNER,),)))})
