"""Planted permutations are found by what the units compute."""

import copy

import pytest
import torch
from torch import nn

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.matching.activation_matching import match_activations
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Factor, Group, PermutationSpec

UNITS, CHANNELS = 9, 6


class Convolutions(nn.Module):
    """Conv, norm, flatten, linear: an axis of blocks, and a norm beside each layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, CHANNELS, 3), nn.BatchNorm2d(CHANNELS)
        self.hidden, self.out = nn.Linear(CHANNELS * 4, UNITS), nn.Linear(UNITS, 3)

    def forward(self, x):
        return self.out(self.hidden(self.norm(self.conv(x)).relu().flatten(1)).relu())


def convolution_spec():
    channels, units = Axis.units("c", CHANNELS), Axis.units("u", UNITS)
    norm = {f"norm.{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")}
    axes = {
        "conv.weight": (channels, Axis.fixed(2), Axis.fixed(3), Axis.fixed(3)),
        "conv.bias": (channels,),
        **norm,
        "norm.num_batches_tracked": (),
        "hidden.weight": (units, Axis.units("c", CHANNELS, block=4)),
        "hidden.bias": (units,),
        "out.weight": (Axis.fixed(3), units),
        "out.bias": (Axis.fixed(3),),
    }
    statistics = frozenset({"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"})
    return PermutationSpec({"c": Group("c", CHANNELS), "u": Group("u", UNITS)}, axes, statistics)


SPEC = convolution_spec()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Convolutions()


def planted(module, generator):
    p = perm.random(SPEC, generator)
    other = copy.deepcopy(module)
    other.load_state_dict(perm.apply(SPEC, p, module.state_dict()))
    return other, perm.invert(SPEC, p)


def batches(generator, count=3):
    return [torch.randn(20, 2, 4, 4, generator=generator) for _ in range(count)]


def test_planted_permutation_is_found(module, generator):
    other, wanted = planted(module, generator)
    match = match_activations(SPEC, module, other, batches(generator))
    assert all(torch.equal(match.permutation[name], p) for name, p in wanted.items())
    # c is measured at the convolution and at its norm, u at one layer; each unit correlates fully with its own
    assert float(match.objective) == pytest.approx(2 * CHANNELS + UNITS, rel=1e-6)
    assert match.objective > match.objective_before


def test_scale_of_a_unit_does_not_matter(module, generator):
    other, wanted = planted(module, generator)
    with torch.no_grad():
        other.hidden.weight *= torch.rand(UNITS, 1, generator=generator) * 10 + 0.1
    match = match_activations(SPEC, module, other, batches(generator))
    assert torch.equal(match.permutation["u"], wanted["u"])


def test_modules_are_left_as_they_were(module, generator):
    module.train()
    before = copy.deepcopy(module.state_dict())
    match_activations(SPEC, module, module, batches(generator))
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_groups_without_activations_are_matched_by_weights(generator):
    """Attention weights without a layer of their own: a bare parameter has no output to measure."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.randn(UNITS, 5, generator=generator))
            self.out = nn.Linear(UNITS, 3)
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(self.out((x @ self.up.T).relu()).relu())

    spec = PermutationSpec(
        {"u": Group("u", UNITS), "v": Group("v", 3)},
        {
            "up": (Axis.units("u", UNITS), Axis.fixed(5)),
            "out.weight": (Axis.units("v", 3), Axis.units("u", UNITS)),
            "out.bias": (Axis.units("v", 3),),
            "last.weight": (Axis.fixed(2), Axis.units("v", 3)),
            "last.bias": (Axis.fixed(2),),
        },
    )
    one, p = Bare(), perm.random(spec, generator)
    other = copy.deepcopy(one)
    other.load_state_dict(perm.apply(spec, p, one.state_dict()))
    match = match_activations(spec, one, other, [torch.randn(50, 5, generator=generator)])
    assert all(torch.equal(match.permutation[name], q) for name, q in perm.invert(spec, p).items())


def test_channels_within_heads_are_matched(generator):
    heads, size = Factor(3, "heads"), Factor(4, "vo")
    inner = Axis(((heads, size),))
    spec = PermutationSpec(
        {"heads": Group("heads", 3), "vo": Group("vo", 4, within="heads")},
        {
            "0.weight": (inner, Axis.fixed(6)),
            "0.bias": (inner,),
            "1.weight": (Axis.fixed(2), inner),
            "1.bias": (Axis.fixed(2),),
        },
    )
    torch.manual_seed(0)
    one, p = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 2)), perm.random(spec, generator)
    other = copy.deepcopy(one)
    other.load_state_dict(perm.apply(spec, p, one.state_dict()))
    match = match_activations(spec, one, other, [torch.randn(50, 6, generator=generator)])
    assert all(torch.equal(match.permutation[name], q) for name, q in perm.invert(spec, p).items())


def test_dead_units_do_not_divide_by_zero(module, generator):
    with torch.no_grad():
        module.hidden.weight[3], module.hidden.bias[3] = 0, 5.0
    match = match_activations(SPEC, module, module, batches(generator))
    assert match.objective.isfinite()
    assert match.moved == {"c": 0.0, "u": 0.0}


def test_no_data_is_refused(module):
    with pytest.raises(InputError, match="no batch was given"):
        match_activations(SPEC, module, module, [])


def test_not_a_number_names_the_layer(module):
    with pytest.raises(InputError, match="layer 'conv' outputs NaN"):
        match_activations(SPEC, module, module, [torch.full((1, 2, 4, 4), float("nan"))])


def test_agrees_with_weights_on_a_planted_pair(module, generator):
    other, _ = planted(module, generator)
    by_weights = match_weights(SPEC, module.state_dict(), other.state_dict())
    by_activations = match_activations(SPEC, module, other, batches(generator))
    assert all(torch.equal(by_weights.permutation[n], p) for n, p in by_activations.permutation.items())
