"""One form for every relabelling, bit for bit, however alike the units are."""

import pytest
import torch

from canon.actions import permutation as perm
from canon.actions.canonical_form import canonicalize
from canon.errors import InputError
from canon.spec import Axis, Group, PermutationSpec
from tests.canon.examples import mlp, residual_stack, transformer_stack, weights

SPECS = {
    "mlp": mlp(6, 5, 4, 3),
    "residual": residual_stack(6, 7, blocks=2),
    "transformer": transformer_stack(width=6, heads=3, blocks=2, tokens=4),
    "recurrent": PermutationSpec(
        {"u": Group("u", 7)}, {"square": (Axis.units("u", 7),) * 2, "bias": (Axis.units("u", 7),)}
    ),
}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def assert_one_form(spec, state, generator, tries=5):
    form = canonicalize(spec, state)
    for _ in range(tries):
        again = canonicalize(spec, perm.apply(spec, perm.random(spec, generator), state))
        assert all(torch.equal(again[name], form[name]) for name in form)
    twice = canonicalize(spec, form)
    assert all(torch.equal(twice[name], form[name]) for name in form)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_relabelling_has_one_form(spec, dtype, generator):
    state = {name: t.to(dtype) for name, t in weights(spec, generator).items()}
    assert_one_form(spec, state, generator)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_coarsely_quantised_weights(spec, generator):
    for _ in range(10):
        state = {name: t.sign() * (t.abs() > 0.9) for name, t in weights(spec, generator).items()}
        assert_one_form(spec, state, generator, tries=3)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_equal_weights_everywhere(spec, generator):
    assert_one_form(
        spec, {name: torch.ones_like(t) for name, t in weights(spec, generator).items()}, generator
    )


def test_a_ring_is_not_told_apart_by_looking(generator):
    """Every unit sees the same: refinement alone is blind, and no two units are interchangeable."""
    spec = SPECS["recurrent"]
    ring = {"square": torch.eye(7).roll(1, 0), "bias": torch.zeros(7)}
    assert_one_form(spec, ring, generator)


def test_dead_units_and_copies(generator):
    spec = SPECS["mlp"]
    state = weights(spec, generator)
    for name, axis in (("layers.1.weight", 0), ("layers.1.bias", 0), ("layers.2.weight", 1)):
        state[name].index_fill_(axis, torch.tensor([0, 3]), 0)
    assert_one_form(spec, state, generator)


def test_the_sign_of_zero_is_a_bit(generator):
    spec = SPECS["mlp"]
    state = {name: torch.zeros_like(t) for name, t in weights(spec, generator).items()}
    state["layers.1.bias"][2] = -0.0
    form = canonicalize(spec, state)
    again = canonicalize(spec, perm.apply(spec, perm.random(spec, generator), state))
    assert torch.equal(form["layers.1.bias"].signbit(), again["layers.1.bias"].signbit())


def test_different_networks_keep_different_forms(generator):
    spec = SPECS["mlp"]
    one = weights(spec, generator)
    other = {**one, "layers.2.bias": one["layers.2.bias"].flip(0)}
    assert not all(torch.equal(canonicalize(spec, one)[n], canonicalize(spec, other)[n]) for n in one)


def test_not_a_number_is_refused(generator):
    state = weights(SPECS["mlp"], generator)
    state["layers.1.bias"][0] = float("nan")
    with pytest.raises(InputError, match=r"layers\.1\.bias holds NaN"):
        canonicalize(SPECS["mlp"], state)
