"""Compare the weights of two networks up to permutation, rescaling and dtype rounding.

Weights that were only put in another order, or cast, agree bit for bit once they are in one order and one dtype. Scaled
ones were rounded, each by half a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from canon.actions.canonical_form import TooRegular, canonicalize
from canon.actions.scaling import balance
from canon.actions.transform import Transform
from canon.io.dtypes import computable
from canon.matching.signed_weight_matching import match_signed
from canon.spec import PermutationSpec

# Scales of two networks that are closer than this many units in the last place were not rescaled.
_ONE = 8
# Units in the last place by which weights that were scaled and rounded may differ.
_ROUNDED = 2
# Relative precision to which scales are balanced, where that is less than the dtype's.
_BALANCED = 1e-10


@dataclass(frozen=True)
class Agreement:
    """How weights agree once matched: `how` in words, None where they do not, and the tolerance that this allows.

    `difference` is the largest of an entry, relative to its tensor's largest.
    """

    how: str | None
    tolerance: float
    difference: float = 0.0


def agreement(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Agreement:
    """Whether `b` is `a` in another order, and in other scales up to rounding."""
    try:
        if equal_tensors(*(canonicalize(spec, state) for state in comparable(a, b))):
            return Agreement("B is a permutation of A, bit for bit", 0.0)
    except TooRegular:  # matching may still find one
        pass
    return _matched(spec, a, b)


def _matched(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Agreement:
    dtype = coarsest(a, b)
    info = torch.finfo(getattr(torch, dtype))
    eps, small = max(float(info.eps), _BALANCED), float(info.smallest_normal)
    wide = [{n: t.double() if t.is_floating_point() else t for n, t in state.items()} for state in (a, b)]
    (scales_a, one), (scales_b, other) = (balance(spec, state) for state in wide)
    match = match_signed(spec, one, other)
    moved = Transform(spec, match.permutation, match.scales).apply(wide[1])
    if all(_one_cast(a[name], b[name], wide[0][name], moved[name]) for name in a):
        return Agreement(
            f"B is a permutation of A up to rounding to {dtype}, equal once cast (tolerance 0)", 0.0
        )
    other = Transform(spec, match.permutation, match.scales).apply(other)
    worst, rounded = 0.0, True
    for name, tensor in one.items():
        if not tensor.numel():
            continue
        apart = (tensor.double() - other[name].double()).abs()
        worst = max(worst, float(apart.max() / tensor.double().abs().max().clamp(min=1e-300)))
        rounded = rounded and bool((apart <= _ROUNDED * eps * tensor.double().abs() + eps * small).all())
    scaled = any(not _alike(scales_a[name], scales_b[name], _ONE * eps) for name in scales_a)
    if not (rounded and scaled):
        return Agreement(None, float(_ROUNDED * eps), worst)
    how = f"B is a permutation and rescaling of A up to rounding to {dtype}: relative difference {worst:.1e}"
    return Agreement(f"{how} (tolerance {_ROUNDED * eps:.0e})", float(_ROUNDED * eps), worst)


def _one_cast(a: Tensor, b: Tensor, one: Tensor, other: Tensor) -> bool:
    """Whether entries agree in the coarser of the dtypes that `a` and `b` are stored in."""
    if not a.is_floating_point():
        return torch.equal(one, other)
    dtype = max((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(computable(one.to(dtype)), computable(other.to(dtype)))


def _alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two groups have the same scales, in any order."""
    apart = one.flatten().log().sort().values - other.flatten().log().sort().values
    return bool((apart.abs() <= tolerance).all())


def coarsest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """The floating dtype of the files that keeps fewest digits."""
    dtypes = {t.dtype for state in (a, b) for t in state.values() if t.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    return str(coarsest).removeprefix("torch.")


def equal_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two networks hold the same numbers."""
    wide_a, wide_b = comparable(a, b)
    return all(torch.equal(wide_a[name], wide_b[name]) for name in wide_a)


def same_entries(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    """None where each tensor holds the same entries in both networks, in every place that no group moves; else its name.

    This is less than a permutation, and is seen with one tensor in memory at a time.
    """
    for name, axes in spec.axes.items():
        one, other = (_sorted_along(state[name], [bool(axis.groups) for axis in axes]) for state in (a, b))
        if not torch.equal(one, other):
            return name
    return None


def _sorted_along(tensor: Tensor, moves: Sequence[bool]) -> Tensor:
    """The entries with those of axes that move sorted, each place of the others for itself."""
    tensor = computable(tensor)
    still = [number for number, move in enumerate(moves) if not move]
    moving = [number for number, move in enumerate(moves) if move]
    if not moving:
        return tensor
    rows = tensor.permute(*still, *moving).flatten(len(still))
    # signs of units of odd activations may have changed
    return rows.abs().sort(-1).values if rows.is_floating_point() else rows.sort(-1).values


def comparable(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both networks in one dtype for each tensor, at least float32; equal dtypes cost no copy."""
    wide_a, wide_b = {}, {}
    for name in b:
        dtype = torch.promote_types(_at_least_float32(a[name].dtype), _at_least_float32(b[name].dtype))
        wide_a[name], wide_b[name] = a[name].to(dtype), b[name].to(dtype)
    return wide_a, wide_b


def matchable(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """`comparable` for large networks: in their own dtypes, but for those that cannot compute."""
    wide = [{name: computable(tensor) for name, tensor in state.items()} for state in (a, b)]
    return wide[0], wide[1]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype
