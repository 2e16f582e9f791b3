"""The smallest inputs that show a network's structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from canon.models.families.functional import Tensors


def image(key: str) -> Callable[[Tensors], Tensor]:
    return lambda tensors: torch.randn(2, tensors[key].shape[1], 4, 4, generator=generator())


def patches(key: str) -> Callable[[Tensors], Tensor]:
    def make(tensors: Tensors) -> Tensor:
        _, channels, rows, columns = tensors[key].shape
        return torch.randn(1, channels, 2 * rows, 2 * columns, generator=generator())

    return make


def token_ids(tensors: Tensors) -> Tensor:
    return torch.arange(4)[None]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
