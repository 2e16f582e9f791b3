"""A view of an axis of one entry cannot be told from one in another order: other sizes tell."""

import copy

import pytest
import torch
from torch import nn

import canon


class Read(nn.Module):
    """A layer whose output is read by `look`, and summed over all but the batch and its units."""

    def __init__(self, layer, look):
        super().__init__()
        self.layer, self.look, self.out = layer, look, nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.look(torch.relu(self.layer(x))))


STEP, PIXEL = torch.randn(3, 1, 6), torch.randn(2, 3, 3, 3)
LOOKS = {
    "steps for units": (nn.Linear(6, 8), lambda h: h.reshape(len(h), 8, -1).mean(2), STEP, 0),
    "steps": (nn.Linear(6, 8), lambda h: h.reshape(len(h), -1, 8).mean(1), STEP, 1),
    "pixels for channels": (nn.Conv2d(3, 8, 3), lambda h: h.flatten(1).view(len(h), -1, 8).mean(1), PIXEL, 0),
    "pixels": (nn.Conv2d(3, 8, 3), lambda h: h.flatten(1).view(len(h), 8, -1).mean(2), PIXEL, 1),
    "a fixed size": (nn.Conv2d(3, 8, 3), lambda h: h.flatten(1), PIXEL, 1),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_group_holds_at_other_sizes_too(name):
    layer, look, x, groups = LOOKS[name]
    torch.manual_seed(0)
    a = Read(layer, look).eval()
    b = copy.deepcopy(a)
    for parameter in b.parameters():
        nn.init.normal_(parameter)
    spec = canon.trace(a, x)
    assert len(spec.groups) == groups
    assert groups or any("not for inputs of shape" in reason for reason in spec.frozen.values())
    c = canon.align(a, b, example_inputs=x)
    larger = torch.randn(2, 4, 6) if x is STEP else torch.randn(2, 3, 5, 5)
    for given in (x,) if name == "a fixed size" else (x, larger):
        assert torch.allclose(b(given), c(given), atol=1e-4)


def test_rounding_inside_a_module_is_no_change():
    """A norm in float32, as those of Llama and Gemma."""

    def norm(h):
        wide = h.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(h.dtype)

    torch.manual_seed(0)
    made = Read(nn.Linear(6, 8), lambda h: norm(h).unsqueeze(1).unsqueeze(1).sum((1, 2, 3)))
    assert [group.size for group in canon.trace(made, torch.randn(2, 5, 6)).groups.values()] == [8]
