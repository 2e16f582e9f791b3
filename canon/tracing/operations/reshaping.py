"""Layout changes: reshape, transpose, expand, pad, concatenate."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace
from typing import Any

import torch

from canon.tracing.axis_unification import ONE, Structure
from canon.tracing.operations.context import Context, Dim, Part, Split, copies, handles, places, unknown


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", "_reshape_alias", "view_as", "reshape_as")
def reshape(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    old, new = list(a.self.value.shape), list(out.shape)
    if 0 in old:
        return [*c.fixed(new, "an empty tensor")]
    dims, result, i, j = a.self.dims, [], 0, 0
    while i < len(old) or j < len(new):
        stop_i, stop_j = i + (i < len(old)), j + (j < len(new))
        while prod(old[i:stop_i]) != prod(new[j:stop_j]):
            if prod(old[i:stop_i]) < prod(new[j:stop_j]):
                stop_i += 1
            else:
                stop_j += 1
        block = [d for d, size in zip(dims[i:stop_i], old[i:stop_i], strict=True) if size != 1]
        result += _reblock(c, block, tuple(new[j:stop_j]))
        i, j = stop_i, stop_j
    return result


def _reblock(c: Context, block: list[Dim], sizes: tuple[int, ...]) -> list[Dim]:
    many = tuple(size for size in sizes if size != 1)
    if len(block) == 1 and len(many) == 1:
        made: list[Dim] = list(block)
    else:
        merged = c.units.product([c.axis(dim) for dim in block])
        split = Split(merged, many)
        made = [merged] if len(many) == 1 else [Part(split, n) for n in range(len(many))]
    rest = iter(made)
    return [next(rest) if size != 1 else ONE for size in sizes]


@handles("permute")
def permute(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    return [a.self.dims[d] for d in a.dims]


@handles("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "matrix_H")
def transpose(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims = list(a.self.dims)
    pair = next(
        (
            (x, y)
            for n in ("dim", "axis")
            if (x := getattr(a, f"{n}0", None)) is not None and (y := getattr(a, f"{n}1", None)) is not None
        ),
        (-2, -1),
    )
    if len(dims) > 1:
        dims[pair[0]], dims[pair[1]] = dims[pair[1]], dims[pair[0]]
    return dims


@handles("movedim", "moveaxis")
def movedim(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    order = torch.empty(tuple(range(2, 2 + len(a.self.dims)))).movedim(a.source, a.destination).shape
    return [a.self.dims[size - 2] for size in order]


@handles("squeeze")
def squeeze(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    shape = a.self.value.shape
    over = places(getattr(a, "dim", None), len(shape))
    return [d for n, d in enumerate(a.self.dims) if n not in over or shape[n] != 1]


@handles("unsqueeze")
def unsqueeze(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims = list(a.self.dims)
    dims.insert(a.dim % (len(dims) + 1), ONE)
    return dims


@handles("expand", "expand_as", "broadcast_to")
def expand(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims: list[Dim] = [ONE] * (out.dim() - len(a.self.dims)) + list(a.self.dims)
    shape = [1] * (out.dim() - a.self.value.dim()) + list(a.self.value.shape)
    return [
        dim if old == new else copies(c, new) for dim, old, new in zip(dims, shape, out.shape, strict=True)
    ]


@handles("repeat", "tile")
def repeat(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    axes = [ONE] * (out.dim() - len(a.self.dims)) + c.axes(a.self)
    return [
        c.units.product([copies(c, new // c.units.size(x)), x])
        for x, new in zip(axes, out.shape, strict=True)
    ]


@handles("repeat_interleave")
def repeat_interleave(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    if not hasattr(a, "self") or not isinstance(a.repeats, int) or a.dim is None:
        return unknown(c, a, out)
    dims: list[Dim] = list(a.self.dims)
    dims[a.dim] = c.units.product([c.axis(dims[a.dim]), copies(c, a.repeats)])
    return dims


@handles(
    "full",
    "zeros",
    "ones",
    "full_like",
    "zeros_like",
    "ones_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "scalar_tensor",
    "fill",
)
def constant(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return [copies(c, size) for size in out.shape]


@handles("eye")
def identity_matrix(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if out.shape[0] != out.shape[1]:
        return unknown(c, a, out)
    axis = copies(c, out.shape[0])
    return [axis, axis]


@handles("diag_embed")
def diag_embed(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """The last axis twice, on two new axes."""
    if a.offset:
        return unknown(c, a, out)
    *rest, axis = c.axes(a.self)
    c.still([axis])
    for place in sorted(n % out.dim() for n in (a.dim1, a.dim2)):
        rest.insert(place, axis)
    return rest


@handles("diagonal", "diagonal_copy", "linalg_diagonal")
def diagonal(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Two axes that list the same units, as one."""
    axes = c.axes(a.self)
    one, two = (n % len(axes) for n in (a.dim1, a.dim2))
    if a.offset or c.units.size(axes[one]) != c.units.size(axes[two]):
        return unknown(c, a, out)
    c.units.unify(axes[one], axes[two], c.because("sizes do not match"))
    c.still([axes[one], axes[two]])
    return [*(axis for n, axis in enumerate(axes) if n not in (one, two)), axes[one]]


@handles("unfold")
def windows(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Windows along an axis, on a new last axis."""
    axes, why = c.axes(a.self), "positions of a window"
    place = a.dimension % len(axes)
    c.units.freeze_axis(axes[place], c.because(why))
    axes[place] = c.fixed([out.shape[place]], why)[0]
    return [*axes, *c.fixed([a.size], why)]


@handles("constant_pad_nd", "pad")
def pad(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if getattr(a, "mode", "constant") != "constant":
        return _pad_positions(c, a, out)
    axes = c.axes(a.self)
    amounts = list(getattr(a, "pad", []))
    if getattr(a, "value", 0):
        c.still(axes)
    for n in range(len(amounts) // 2):
        place, (before, after) = -1 - n, amounts[2 * n : 2 * n + 2]
        size = c.units.size(axes[place])
        kept = c.units.slice(axes[place], max(0, -before), size + min(0, after), c.because("it is cut off"))
        ends = [c.units.free(extra) if extra > 0 else () for extra in (before, after)]
        axes[place] = ends[0] + kept + ends[1]
    return axes


def _pad_positions(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Padded with copies of entries: circular, reflected or replicated."""
    axes, why = c.axes(a.self), "positions of a padding"
    for place in range(-len(a.pad) // 2, 0):
        c.units.freeze_axis(axes[place], c.because(why))
        axes[place] = c.fixed([out.shape[place]], why)[0]
    return axes


@handles("cat", "concat", "concatenate")
def cat(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = [c.axes(x) for x in a.tensors if x.value.numel() or x.value.dim() > 1]
    place = a.dim % len(out.shape)
    joined: Structure = ()
    for other in axes:
        joined += other[place]
        for n, axis in enumerate(other):
            if n != place:
                c.units.unify(axes[0][n], axis, c.because("sizes do not match"))
                c.units.equate(axes[0][n], axis)
    return [joined if n == place else axis for n, axis in enumerate(axes[0])]


@handles("stack")
def stack(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = [c.axes(x) for x in a.tensors]
    for other in axes[1:]:
        for one, two in zip(axes[0], other, strict=True):
            c.units.unify(one, two, c.because("sizes do not match"))
            c.units.equate(one, two)
    result = list(axes[0])
    result.insert(a.dim % len(out.shape), c.fixed([len(axes)], "a stack of different tensors")[0])
    return result
