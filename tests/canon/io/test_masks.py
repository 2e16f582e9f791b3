"""Masks with -inf are data; every other tensor with -inf is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import canon
from canon.errors import InputError
from canon.io.checkpoint import require_finite
from canon.merging.interpolation import merge

INF = float("inf")


def test_an_additive_mask_is_data() -> None:
    require_finite({"mask": torch.full((4, 4), -INF).triu(1)}, "a.pt")


def test_a_causal_bias_is_data() -> None:
    bias = torch.arange(4.0)[:, None, None] * torch.arange(5.0) + torch.full((5, 5), -INF).triu(1)
    require_finite({"bias": bias}, "a.pt")
    bias[1, 4, 0] = -INF
    with pytest.raises(InputError, match="NaN or infinity"):
        require_finite({"bias": bias}, "a.pt")


@pytest.mark.parametrize("values", [[-INF, -INF], [-INF, 0.5], [INF, 0.0], [float("nan"), 0.0]])
def test_a_diverged_tensor_is_no_mask(values: list[float]) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        require_finite({"weight": torch.tensor(values)}, "a.pt")


class Masked(nn.Module):
    """Causal attention whose mask is a buffer that is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.qkv, self.down = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 2)
        self.register_buffer("mask", torch.full((5, 5), -INF).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.up(x).tanh()).chunk(3, -1)
        return self.down((q @ k.mT + self.mask).softmax(-1) @ v)


def test_align_keeps_a_mask_and_the_function() -> None:
    torch.manual_seed(0)
    a, b = Masked(), Masked()
    x = torch.randn(2, 5, 3)
    aligned = canon.align(a, b, example_inputs=x)
    assert aligned.report["verified"]
    assert aligned.report["moved_fraction"] > 0
    assert torch.equal(aligned.mask, b.mask)
    assert torch.allclose(aligned(x), b(x), atol=1e-6)
    assert torch.equal(canon.merge([a, b], example_inputs=x).mask, b.mask)


def test_a_mean_of_masks_is_the_mask() -> None:
    mask = torch.full((3, 3), -INF).triu(1)
    merged = merge([{"mask": mask, "w": torch.zeros(2)}, {"mask": mask, "w": torch.ones(2)}])
    assert torch.equal(merged["mask"], mask)
    assert torch.equal(merged["w"], torch.full((2,), 0.5))
