"""Batch norm as an affine map: the same numbers as torch's, and a gradient for the running statistics."""

import pytest
import torch
from torch import nn

from weightflow.batched.evaluation_mode import in_evaluation_mode
from weightflow.batched.inference import forward_many
from weightflow.networks.architectures import Architecture

NORMS = {
    "rows": (nn.BatchNorm1d(4), (5, 4)),
    "sequences": (nn.BatchNorm1d(4), (5, 4, 7)),
    "images": (nn.BatchNorm2d(4), (5, 4, 3, 3)),
    "volumes": (nn.BatchNorm3d(4, eps=0.1), (5, 4, 2, 3, 3)),
    "without weights": (nn.BatchNorm2d(4, affine=False), (5, 4, 3, 3)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_it_computes_what_torch_computes(kind):
    norm, shape = NORMS[kind]
    stream = torch.Generator().manual_seed(0)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=stream) + 0.5)
    x = torch.randn(shape, generator=stream)
    with torch.no_grad():
        wanted = norm.eval()(x)
        module = in_evaluation_mode(nn.Sequential(nn.Identity(), norm))
        torch.testing.assert_close(module(x), wanted)
    assert type(module[1]) is not type(norm)


def test_norms_without_statistics_and_subclasses_stay_what_they_are():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return x

    module = in_evaluation_mode(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), Own(3)))
    assert [type(part) for part in module] == [nn.BatchNorm1d, Own]


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_running_statistics_have_a_gradient(name):
    arguments = {"widths": [4], "norm": True} if name == "cnn" else {"widths": [4]}
    net = Architecture(name, arguments, (3, 8, 8), 3)
    state = {n: t.unsqueeze(0).clone() for n, t in net.build().state_dict().items()}
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.requires_grad_()
    with torch.no_grad():
        state["1.running_var"][0, 0] = -0.5  # as noise may have it
    inputs = torch.randn(1, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    forward_many(net)(state, inputs).square().sum().backward()
    for part in ("running_mean", "running_var"):
        gradient = state[f"1.{part}"].grad
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())
