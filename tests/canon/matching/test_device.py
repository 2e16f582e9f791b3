"""Matching on another device: nothing is left behind on the processor, and the networks come out alike."""

import pytest
import torch
from torch import nn

import canon
from canon.matching.population import align_many, align_to
from tests.second_device import second_device


def perceptron(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def attention():
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).eval()


NETWORKS = {
    "perceptron": (perceptron, (4, 5)),
    "odd": (lambda: perceptron(nn.Tanh), (4, 5)),
    "convolutions": (convolutions, (4, 2, 6, 6)),
    "attention": (attention, (2, 3, 8)),
}


def population(name, count):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    networks = [build() for _ in range(count)]
    spec = canon.trace(networks[0], torch.randn(shape))
    states = [network.state_dict() for network in networks]
    return spec, {key: torch.stack([state[key] for state in states]) for key in states[0]}


def on(device, state):
    return {key: tensor.to(device) for key, tensor in state.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_a_population_is_aligned_on_an_accelerator_as_on_the_processor(name):
    spec, stacked = population(name, 5)
    here, there = align_many(spec, stacked), align_many(spec, on("cuda", stacked))
    torch.testing.assert_close(on("cpu", there.state), here.state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_population_is_aligned_on_a_second_device_as_on_the_processor(name):
    spec, stacked = population(name, 5)
    here = align_many(spec, stacked)
    follow = align_to(spec, here.frame, stacked)
    with second_device() as device:
        there = align_many(spec, on(device, stacked))
        assert {tensor.device for tensor in (*there.state.values(), *there.frame.values())} == {device}
        led = align_to(spec, on(device, here.frame), on(device, stacked))
        one = align_to(spec, on(device, here.frame), on(device, {k: t[0] for k, t in stacked.items()}))
        found = [on("cpu", state) for state in (there.state, there.frame, led.state, one.state)]
    first = {key: tensor[0] for key, tensor in follow.state.items()}
    for mine, wanted in zip(found, (here.state, here.frame, follow.state, first), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
