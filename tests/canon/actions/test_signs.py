"""Units of odd activations are known up to sign: one canonical form, and signs matched with the units."""

import pytest
import torch
from torch import nn

import canon
from canon.actions import permutation as perm
from canon.actions import scaling
from canon.actions.canonical_form import canonical_element, canonicalize
from canon.actions.signs import sign_groups
from canon.matching import population
from canon.matching.signed_weight_matching import match_signed
from canon.spec import Axis, Factor, Group, PermutationSpec
from tests.canon.examples import mlp, noisy, run_mlp, weights

SPECS = {
    "mlp": mlp(6, 5, 4, 3, scale="sign"),
    "unanchored": PermutationSpec(
        {"u": Group("u", 5, scale="sign"), "v": Group("v", 4, scale="sign")},
        {"w": (Axis.units("v", 4, power=1), Axis.units("u", 5, power=-1))},
    ),
    "recurrent": PermutationSpec(
        {"u": Group("u", 5, scale="sign")},
        {
            "square": (Axis.units("u", 5, power=1), Axis.units("u", 5, power=-1)),
            "bias": (Axis.units("u", 5, power=1),),
        },
    ),
    "nested": PermutationSpec(
        {"heads": Group("heads", 2), "c": Group("c", 3, within="heads", scale="sign")},
        {
            "value": (Axis(((Factor(2, "heads"), Factor(3, "c", 1)),)), Axis.fixed(4)),
            "out": (Axis.fixed(4), Axis(((Factor(2, "heads"), Factor(3, "c", -1)),))),
        },
    ),
    "flattened": PermutationSpec(
        {"c": Group("c", 4, scale="sign"), "r": Group("r", 3, scale="positive")},
        {
            "conv": (Axis.units("c", 4, power=1), Axis.fixed(2)),
            "linear": (Axis.units("r", 3, power=1), Axis.units("c", 4, block=2, power=-1)),
        },
    ),
}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_signs(spec, generator, *batch):
    return {
        name: torch.randint(2, (*batch, *spec.shape(name)), generator=generator).double() * 2 - 1
        for name in sign_groups(spec)
    }


def scattered(spec, state, generator, *batch):
    signed = scaling.apply_scale(spec, random_signs(spec, generator, *batch), state, bool(batch))
    return perm.apply(spec, perm.random(spec, generator, batch), signed)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert all(torch.equal(one[n].signbit(), other[n].signbit()) for n in one)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_relabelling_and_choice_of_signs_has_one_form(spec, dtype, generator):
    state = {name: t.to(dtype) for name, t in weights(spec, generator).items()}
    form = canonicalize(spec, state)
    for _ in range(5):
        assert_equal(canonicalize(spec, scattered(spec, state, generator)), form)
    assert_equal(canonicalize(spec, form), form)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_coarsely_quantised_weights_have_one_form(spec, generator):
    for _ in range(10):
        state = {name: t.sign() * (t.abs() > 0.9) + 0.0 for name, t in weights(spec, generator).items()}
        form = canonicalize(spec, state)
        for _ in range(3):
            assert_equal(canonicalize(spec, scattered(spec, state, generator)), form)


def test_networks_that_differ_in_more_than_signs_keep_different_forms(generator):
    spec = SPECS["mlp"]
    one = weights(spec, generator)
    other = {**one, "layers.1.bias": -one["layers.1.bias"]}
    assert not torch.equal(
        canonicalize(spec, one)["layers.1.bias"], canonicalize(spec, other)["layers.1.bias"]
    )


def test_the_form_computes_the_function(generator):
    spec = SPECS["mlp"]
    state = weights(spec, generator)
    x = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    _, signs = canonical_element(spec, state)
    assert any((sign < 0).any() for sign in signs.values())
    form = canonicalize(spec, state)
    torch.testing.assert_close(
        run_mlp(form, x, torch.tanh), run_mlp(state, x, torch.tanh), rtol=1e-12, atol=1e-12
    )


def test_bilinear_units_are_left(generator):
    groups = {name: Group(name, 3, scale="sign") for name in "abcd"}
    spec = PermutationSpec(
        groups,
        {
            "w": tuple(Axis.units(name, 3, power=1) for name in "abc"),
            "v": (Axis.units("d", 3, power=1), Axis.fixed(2)),
        },
    )
    assert sign_groups(spec) == ["d"]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_planted_units_and_signs_are_found(spec, generator):
    reference = weights(spec, generator)
    network = scattered(spec, reference, generator)
    match = match_signed(spec, reference, network)
    found = perm.apply(spec, match.permutation, scaling.apply_scale(spec, match.scales, network))
    total = sum(t.square().sum() for t in reference.values())
    if spec is SPECS["mlp"] or spec is SPECS["flattened"]:
        assert all(torch.equal(found[n], reference[n]) for n in found)
        assert match.objective == pytest.approx(float(total))
    assert match.objective >= match.objective_before
    if spec is SPECS["nested"]:  # units within others are matched before their signs are known
        return
    assert match.objective == pytest.approx(float(sum((found[n] * reference[n]).sum() for n in found)))


def test_noise_as_large_as_a_quarter_does_not_hide_the_signs(generator):
    spec = mlp(20, 30, 25, 10, scale="sign")
    reference = weights(spec, generator)
    element, signs = perm.random(spec, generator), random_signs(spec, generator)
    network = noisy(perm.apply(spec, element, scaling.apply_scale(spec, signs, reference)), 0.25, generator)
    match = match_signed(spec, reference, network)
    back = perm.invert(spec, element)
    assert all(torch.equal(match.permutation[name], back[name]) for name in back)
    for name, sign in signs.items():
        assert torch.equal(match.scales[name], sign[element[name]])


def test_dead_units_do_not_part_from_their_negatives(generator):
    spec = SPECS["mlp"]
    reference = weights(spec, generator)
    for name, axis in (("layers.1.weight", 0), ("layers.1.bias", 0), ("layers.2.weight", 1)):
        reference[name].index_fill_(axis, torch.tensor([0, 3]), 0)
    match = match_signed(spec, reference, scattered(spec, reference, generator))
    assert all(torch.equal(p.sort().values, torch.arange(len(p))) for p in match.permutation.values())
    assert match.objective == pytest.approx(float(sum(t.square().sum() for t in reference.values())))


def test_many_networks_come_together(generator):
    spec = mlp(12, 10, 9, 4, scale="sign")
    common = weights(spec, generator)
    stack = {n: t.expand(7, *t.shape) for n, t in common.items()}
    networks = scattered(spec, noisy(stack, 0.1, generator), generator, 7)
    aligned = population.align_many(spec, networks)
    again = perm.apply(
        spec, aligned.permutation, scaling.apply_scale(spec, aligned.scales, networks, stacked=True)
    )
    assert all(torch.equal(again[name], aligned.state[name]) for name in networks)
    x = torch.randn(7, 20, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        run_mlp(aligned.state, x, torch.tanh), run_mlp(networks, x, torch.tanh), rtol=1e-12, atol=1e-12
    )
    assert all(t.std(0).max() < 0.3 for t in aligned.state.values())
    one = scattered(spec, common, generator)
    joined = population.align_to(spec, aligned.frame, one)
    assert all((joined.state[n] - aligned.frame[n]).abs().max() < 0.3 for n in common)


def test_a_traced_network_with_tanh(generator):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    spec = canon.trace(module, torch.randn(2, 5))
    state = dict(module.state_dict())
    assert len(sign_groups(spec)) == 2
    assert_equal(canonicalize(spec, scattered(spec, state, generator)), canonicalize(spec, state))
