"""Batch norm in evaluation mode as the affine map that it is.

    y = w (x - m) / sqrt(v + eps) + b

with the running mean m and variance v. A generated network's statistics may need a gradient, and torch's own
operation is not differentiable with respect to them. Nor need a generated v be positive: it stands for its size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from canon.merging.activation_repair import BATCH_NORMS


class AffineBatchNorm(nn.Module):
    """Parameters and buffers of a batch norm, by the same names; channels are on axis 1."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.eps: float = norm.eps  # type: ignore[assignment]
        for name, parameter in norm._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in norm._buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        # plain tensors stand in for parameters while a stacked network is called
        mean, variance = (cast(Tensor, t) for t in (self.running_mean, self.running_var))
        weight, bias = (cast("Tensor | None", t) for t in (self.weight, self.bias))
        shape = (-1, *[1] * (x.dim() - 2))
        scale = torch.rsqrt(variance.abs() + self.eps)
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale
        if bias is not None:
            shift = shift + bias
        return x * scale.view(shape) + shift.view(shape)


def in_evaluation_mode(module: nn.Module) -> nn.Module:
    """The module, changed to evaluation mode, with every batch norm that has statistics as an affine map."""
    for name, child in module.named_children():
        # a subclass may compute something else
        if type(child) in BATCH_NORMS and child.running_mean is not None:
            setattr(module, name, AffineBatchNorm(child))
        else:
            in_evaluation_mode(child)
    return module.eval()
