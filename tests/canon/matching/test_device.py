"""Matching on another device: products there, assignments on the processor, the same permutations."""

import pytest
import torch
from torch import nn

import canon
from canon.matching.activation_matching import match_activations
from canon.matching.initialization import STARTS
from canon.matching.population import align_many, align_to
from canon.matching.weight_matching import match_weights
from canon.types import State
from tests.second_device import second_device


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.Linear(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.after = nn.Linear(4, 3)

    def forward(self, x):
        return self.after(self.layer(self.before(x)))


def _mlp(activation):
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 7), activation(), nn.Linear(7, 3))


def _cnn():
    first, norm, second = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3)
    return nn.Sequential(first, norm, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3))


NETWORKS = {
    "scales": (lambda: _mlp(nn.ReLU), (2, 4)),
    "signs": (lambda: _mlp(nn.Tanh), (2, 4)),
    "convolutions": (_cnn, (2, 3, 6, 6)),
    "heads": (Attention, (2, 3, 5)),
}


@pytest.fixture(params=NETWORKS)
def example(request):
    """Two networks, their symmetries and inputs."""
    make, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    networks = [make().eval() for _ in range(2)]
    x = torch.randn(shape)
    return networks, canon.trace(networks[0], x), x


def stacked(networks):
    states = [network.state_dict() for network in networks]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def moved(state: State, device):
    return {name: tensor.to(device) for name, tensor in state.items()}


def same_match(there, here):
    assert {p.device.type for p in there.permutation.values()} == {"cpu"}
    assert all(torch.equal(there.permutation[name], p) for name, p in here.permutation.items())
    torch.testing.assert_close(there.objective, here.objective)


def same_alignment(there, here, device):
    for mine, other in ((there.state, here.state), (there.frame, here.frame)):
        assert {tensor.device for tensor in mine.values()} == {device}
        torch.testing.assert_close(moved(mine, "cpu"), other)
    torch.testing.assert_close(there.scales, here.scales)


def aligned(spec, networks, device):
    """A population with each reference, with balance and without, and a network that follows."""
    state = moved(stacked(networks), device)
    yield align_many(spec, state, rounds=1)
    yield align_many(spec, state, reference="first", balance=False)
    yield align_to(spec, *({name: tensor[n] for name, tensor in state.items()} for n in (0, 1)))


def matched(spec, networks, device):
    """Many networks from every start, one alone, and heads by their spectra."""
    state = moved(stacked(networks), device)
    reference, one = ({name: tensor[n] for name, tensor in state.items()} for n in (0, 1))
    for start in STARTS:
        yield match_weights(spec, reference, state, start=start)
    yield match_weights(spec, reference, one)
    yield match_weights(spec, reference, state, heads="spectra")


def test_a_population_on_a_second_device_is_aligned_as_on_the_processor(example):
    networks, spec, _ = example
    here = list(aligned(spec, networks, "cpu"))
    with second_device() as device:
        for there, mine in zip(aligned(spec, networks, device), here, strict=True):
            same_alignment(there, mine, device)


def test_weights_on_a_second_device_are_matched_as_on_the_processor(example):
    networks, spec, _ = example
    here = list(matched(spec, networks, "cpu"))
    with second_device() as device:
        for there, mine in zip(matched(spec, networks, device), here, strict=True):
            same_match(there, mine)


def test_activations_on_a_second_device_are_matched_as_on_the_processor(example):
    (a, b), spec, x = example
    here = match_activations(spec, a, b, [x])
    with second_device() as device:
        same_match(match_activations(spec, a.to(device), b.to(device), [x.to(device)]), here)


@pytest.mark.gpu
def test_a_population_on_an_accelerator_is_aligned_as_on_the_processor(example):
    networks, spec, _ = example
    device = torch.empty(0, device="cuda").device
    for there, mine in zip(aligned(spec, networks, device), aligned(spec, networks, "cpu"), strict=True):
        same_alignment(there, mine, device)


def test_every_start_takes_a_network_in_which_nothing_can_move():
    layer = nn.Linear(4, 3)
    spec = canon.trace(layer, torch.randn(1, 4))
    for start in STARTS:
        assert match_weights(spec, layer.state_dict(), layer.state_dict(), start=start).converged
