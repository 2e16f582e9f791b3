"""Relative difference of two networks' outputs, each entry on the scale of similar entries.

Masks are large numbers (-1e9, the least of a dtype) beside scores of ordinary size, and a network may return tensors of
very different sizes: measured against the largest of all entries, differences would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Larger entries are taken for masks, unless all are so large.
_MASK = 1e4
# Outputs smaller than this, relative to the typical size of all, are residues of rounding.
_RESIDUE = 1e-6


def typical_size(tensors: Sequence[Tensor]) -> float:
    """The upper median of the sizes of all entries that are finite and not zero, masks left out; 0 where there is none."""
    sizes = [real_view(t).abs().flatten() for t in tensors if t.is_floating_point() or t.is_complex()]
    flat = torch.cat([size.double() for size in sizes]) if sizes else torch.zeros(0)
    flat = flat[flat.isfinite() & (flat > 0)]
    ordinary = flat[flat <= _MASK]
    return _upper_median(ordinary if ordinary.numel() else flat)


def relative_difference(reference: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference of an entry, relative to its size or that of those like it.

    Entries below the upper median of those of their output that differ are measured against this median, and outputs far
    below all others against the typical size. Infinity where integers differ, where one of two numbers is not
    finite, or where no number of an output is.
    """
    floor, worst = _RESIDUE * typical_size(reference), 0.0
    for given, other in zip(reference, found, strict=True):
        one, two = real_view(given), real_view(other)
        if not one.is_floating_point():
            if not torch.equal(one, two):
                return float("inf")
            continue
        if one.numel() and not one.isfinite().any():
            return float("inf")  # nothing to compare
        apart = (one != two) & ~(one.isnan() & two.isnan())
        if not apart.any():
            continue
        one, two = one[apart], two[apart]
        if not (one.isfinite().all() and two.isfinite().all()):
            return float("inf")
        sizes = one.abs()
        scale = sizes.clamp(min=max(_upper_median(sizes), floor, 1e-300))
        worst = max(worst, float(((one - two).abs() / scale).max()))
    return worst


def real_view(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers; any other as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _upper_median(sizes: Tensor) -> float:
    if not sizes.numel():
        return 0.0
    return float(sizes.flatten().kthvalue(sizes.numel() // 2 + 1).values)
