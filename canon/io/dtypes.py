"""Floating dtypes that only store: float8 has no arithmetic, no comparison and no test for NaN of its own; and masks."""

from __future__ import annotations

import torch
from torch import Tensor


def computable(tensor: Tensor) -> Tensor:
    """`tensor`, or its exact copy in float32 where its own dtype cannot compute."""
    narrow = tensor.dtype.is_floating_point and tensor.dtype.itemsize < 2
    return tensor.float() if narrow else tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite.

    A sum sees any of them, in a tenth of the time; entry by entry only where it may have overflowed.
    """
    known = computable(tensor)
    return bool(known.sum().isfinite()) or bool(known.isfinite().all())


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers."""
    return torch.equal(computable(a), computable(b))


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor is a mask as attention adds it to scores.

    -inf here and there and zero elsewhere, or -inf at exactly the later positions and any bias before them (ALiBi).
    """
    if not tensor.is_floating_point():
        return False
    wide = computable(tensor)
    finite = wide.isfinite()
    if finite.all() or not (wide[~finite] == -torch.inf).all():
        return False
    # A tensor of nothing but -inf is a diverged weight, not a mask.
    if not finite.any():
        return False
    if (wide[finite] == 0).all():
        return True
    return finite.ndim >= 2 and bool((finite == torch.ones_like(finite).tril()).all())
