"""Residual networks: torchvision's ResNets and ResNeXts, and the CIFAR ones with padded or projected shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family, has
from canon.models.families.example_inputs import image
from canon.models.families.functional import Tensors


def _resnet(tensors: Tensors, x: Tensor, heads: int) -> Tensor:
    """torchvision's ResNets and ResNeXts, and the CIFAR ones with padded or projected shortcuts."""
    x = F.relu(tensors.batch_norm("bn1", tensors.conv("conv1", x)))
    stages = sorted(name for name in tensors.children() if name.startswith("layer"))
    for stage in stages:
        for number in tensors.children(f"{stage}."):
            x = _residual(tensors.under(f"{stage}.{number}."), x)
    x = x.mean((2, 3))
    head = next((name for name in ("fc", "linear") if f"{name}.weight" in tensors), None)
    return x if head is None else tensors.linear(head, x)


def _residual(block: Tensors, x: Tensor) -> Tensor:
    h, depth = x, 3 if "conv3.weight" in block else 2
    for n in range(1, depth + 1):
        h = block.batch_norm(f"bn{n}", block.conv(f"conv{n}", h))
        h = F.relu(h) if n < depth else h
    shortcut = next((name for name in ("downsample", "shortcut") if f"{name}.0.weight" in block), None)
    if shortcut:
        x = block.batch_norm(f"{shortcut}.1", block.conv(f"{shortcut}.0", x))
    elif extra := h.shape[1] - x.shape[1]:
        x = F.pad(x, (0, 0, 0, 0, extra // 2, extra - extra // 2))
    return F.relu(h + x)


RESNET = Family(_resnet, has("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"), image("conv1.weight"))
