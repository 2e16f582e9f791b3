"""Reductions: sums and maxima do not depend on the order of an axis, softmax preserves it, sorting fixes
it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import ONE, Structure
from canon.tracing.operations.context import Context, IndexedAxis, Traced, handles, marked, places
from canon.tracing.operations.elementwise import pointwise


def _reduce(c: Context, a: SimpleNamespace, kind: str, names: tuple[str, ...] = ("dim",)) -> list[Structure]:
    axes = c.axes(a.self)
    over = places(next((getattr(a, n) for n in names if hasattr(a, n)), None), len(axes))
    if kind == "still":
        c.still(axes)
    elif kind == "positive":
        marked(c, axes, c.units.positive)
    c.still([axes[n] for n in over])
    keep = getattr(a, "keepdim", False)
    return [ONE if n in over else axis for n, axis in enumerate(axes) if keep or n not in over]


@handles("sum", "mean")
def reduce_sum(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "linear")


@handles("amax", "amin")
def reduce_max(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "positive")


@handles(
    "var", "std", "prod", "logsumexp", "all", "any", "linalg_vector_norm", "norm", "nansum", "count_nonzero"
)
def reduce_still(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "still")


@handles(
    "max",
    "min",
    "argmax",
    "argmin",
    "var_mean",
    "std_mean",
    "aminmax",
    "median",
    "nanmedian",
    "kthvalue",
    "mode",
)
def reduce_pair(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """The largest along one axis, and its number; or of all entries, or of pairs."""
    if isinstance(getattr(a, "other", None), Traced):
        return pointwise(c, a, out)
    no_places = ("var_mean", "std_mean", "aminmax")
    if c.name not in no_places and getattr(a, "dim", None) is not None and a.self.value.dim():
        c.numbers.append(IndexedAxis(c.axes(a.self)[a.dim], c.because("its order matters")))
    axes = _reduce(c, a, "still")
    return axes if isinstance(out, Tensor) else [axes, axes]


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    c.still(axes)
    c.mix(axes, places(a.dim, len(axes)))
    return axes


@handles("topk", "sort")
def largest(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """The largest along an axis, or all by size, and their numbers, by which experts are looked up."""
    if not c.checked or not a.self.learned or a.self.numbers is not None:
        return ordered(c, a, out)
    axes = c.axes(a.self)
    place = a.dim % len(axes)
    c.still(axes)
    c.mix(axes, [place])
    c.numbers.append(IndexedAxis(axes[place], c.because("its order matters")))
    axes[place] = c.fixed([out[0].shape[place]], "its order matters")[0]
    return [axes, axes]


@handles("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "flip", "roll", "tril", "triu")
def ordered(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.self)
    where = getattr(a, "dim", getattr(a, "dims", None))
    over = range(len(axes) - 2, len(axes)) if c.name.startswith("tri") else places(where, len(axes))
    c.still(axes)
    c.mix(axes, list(over))
    results = [out] if isinstance(out, Tensor) else list(out)
    for place in over:
        c.units.freeze_axis(axes[place], c.because("its order matters"))
        axes[place] = c.fixed([results[0].shape[place]], "its order matters")[0]
    return axes if isinstance(out, Tensor) else [axes for _ in results]
