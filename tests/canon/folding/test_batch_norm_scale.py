"""A batch norm's running variance goes into the layer before it; the function stays, eps and all."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from canon.folding.batch_norm_scale import absorb_scales


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def lively(module):
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) * 4 + 1e-3)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    return module.double().eval()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d, (2, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d, (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d, (2, 4, 5, 5)),
        (nn.Linear(4, 6), nn.BatchNorm1d, (2, 4)),
    ],
)
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_variances_become_one_and_the_function_stays(layer, norm, shape, eps):
    module = nn.Sequential(layer, norm(6, eps=eps), nn.ReLU())
    module, x = lively(module), torch.randn(*shape, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = absorb_scales(module, (x,), before)
    assert found.folded == {"1.running_var": ("0.weight",)}
    assert (found.state["1.running_var"] == 1).all()
    assert list(found.state) == list(before)
    moved = functional_call(module, found.state, (x,))
    torch.testing.assert_close(moved, module(x), rtol=1e-10, atol=1e-10)
    again = absorb_scales(module, (x,), found.state).state
    assert all(torch.equal(again[name], tensor) for name, tensor in found.state.items())


def test_any_scale_of_a_channel_leads_to_the_same():
    module, x = lively(nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6))), torch.randn(1, 2, 4, 4).double()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    s = torch.rand(6, dtype=torch.float64) + 0.5
    other = dict(state)
    other["0.weight"] = state["0.weight"] * s[:, None, None, None]
    other["0.bias"], other["1.running_mean"] = state["0.bias"] * s, state["1.running_mean"] * s
    other["1.running_var"] = s.square() * (state["1.running_var"] + 1e-5) - 1e-5
    one, two = (absorb_scales(module, (x,), found).state for found in (state, other))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-12, atol=1e-12)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Shared(), "conv2d in conv is read by others too"),
        (
            nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
            "no convolution stands right before",
        ),
    ],
)
def test_a_scale_that_others_see_stays_with_the_reason(module, reason):
    module = lively(module)
    found = absorb_scales(module, torch.randn(1, 2, 4, 4).double(), module.state_dict())
    assert not found.folded
    assert reason in next(iter(found.kept.values()))
