"""Floating dtypes that only store: float8 has no arithmetic, no comparison and no test for NaN of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def computable(tensor: Tensor) -> Tensor:
    """`tensor`, or its exact copy in float32 where its own dtype cannot compute."""
    narrow = tensor.dtype.is_floating_point and tensor.dtype.itemsize < 2
    return tensor.float() if narrow else tensor


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers."""
    return torch.equal(computable(a), computable(b))
