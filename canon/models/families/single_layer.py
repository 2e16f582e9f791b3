"""One layer alone: `weight` and `bias`. It has no hidden units, so nothing of it can move."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from canon.models.families.base import Family
from canon.models.families.example_inputs import generator
from canon.models.families.functional import Tensors
from canon.models.families.hyperparameters import Hyperparameters

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _is_layer(tensors: Tensors) -> bool:
    """Whether all keys are the weight and the bias of one module."""
    names = [key.rpartition(".") for key in tensors]
    leaves = {leaf for _, _, leaf in names}
    return (
        len({parent for parent, _, _ in names}) == 1 and "weight" in leaves and leaves <= {"weight", "bias"}
    )


def _input(tensors: Tensors) -> Tensor:
    shape = _named(tensors, "weight").shape
    sizes = [1 + size for size in shape[2:]]
    return torch.randn(2, shape[min(1, len(shape) - 1)], *sizes, generator=generator())


def _layer(tensors: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    weight = _named(tensors, "weight")
    bias = _named(tensors, "bias") if any(key.endswith("bias") for key in tensors) else None
    if weight.dim() in _CONVOLUTIONS:
        return _CONVOLUTIONS[weight.dim()](x, weight, bias)
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    return x * weight if bias is None else x * weight + bias


def _named(tensors: Tensors, leaf: str) -> Tensor:
    return tensors[next(key for key in tensors if key.rpartition(".")[2] == leaf)]


LAYER = Family(_layer, _is_layer, _input, lambda tensors: None, unknown="one layer has no hidden units")
