"""Selection by position: slices, splits, indices."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace
from typing import Any

import torch

from canon.tracing.axis_unification import ONE, Structure
from canon.tracing.operations.context import Context, Dim, Layers, Part, Split, Traced, handles, unknown


def take(c: Context, traced: Traced, dim: int, start: int, stop: int) -> list[Dim]:
    """Positions start to stop of one axis. On the outer axis of a view not yet carried out this
    divides what was viewed, so that fused q, k and v stay independent."""
    dims = list(traced.dims)
    size, here = traced.value.shape[dim], dims[dim]
    if (start, stop) == (0, size):
        return dims
    why = c.because("it is taken apart by position")
    empty = start >= stop
    if empty or not (isinstance(here, Part) and here.number == 0 and here.split.axes is None):
        dims[dim] = c.units.slice(c.axis(here), start, stop, why)
        return dims
    split = here.split
    if isinstance(split, Layers):
        return _take_layers(dims, split, start, stop)
    inner = prod(split.sizes[1:])
    source = c.units.slice(split.source, start * inner, stop * inner, why)
    count = stop - start
    kept = split.sizes[1:] if count == 1 else (count, *split.sizes[1:])
    piece = Split(source, kept)
    for n, other in enumerate(dims):
        if isinstance(other, Part) and other.split is split:
            number = other.number - (count == 1)
            if number < 0:
                dims[n] = ONE
            else:
                dims[n] = source if len(kept) == 1 else Part(piece, number)
    return dims


def _take_layers(dims: list[Dim], split: Layers, start: int, stop: int) -> list[Dim]:
    """Some of the layers: their units stay apart from those of the others."""
    kept = split.layers[start:stop]
    alone: list[Dim] = [ONE, *kept]
    piece = Layers.of(kept)

    def taken(dim: Dim) -> Dim:
        if not (isinstance(dim, Part) and dim.split is split):
            return dim
        return alone[dim.number] if len(kept) == 1 else Part(piece, dim.number)

    return [taken(dim) for dim in dims]


@handles("slice")
def slice_(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    size, step = a.self.value.shape[a.dim], a.step
    start, stop, _ = slice(a.start, a.end, None).indices(size)
    if step == 1:
        return take(c, a.self, a.dim % a.self.value.dim(), start, max(start, stop))
    dims: list[Dim] = list(a.self.dims)
    axis = c.axis(dims[a.dim])
    why = c.because("every so many are taken")
    if c.units.moving(axis) and size % step == 0 and (stop - start) > size - step and start < step:
        many, steps = c.units.split(axis, (size // step, step), why)
        c.units.freeze_axis(steps, why)
        dims[a.dim] = many
    else:
        c.units.freeze_axis(axis, why)
        dims[a.dim] = c.fixed([out.shape[a.dim]], "every so many are taken")[0]
    return dims


@handles("slice_scatter")
def slice_scatter(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """`self` with `src` in the place of a slice: there both list the same units."""
    place = a.dim % a.self.value.dim()
    size = a.self.value.shape[place]
    start, stop, _ = slice(a.start, a.end, None).indices(size)
    why = c.because("it is written into a slice")
    axes, source = c.axes(a.self), c.axes(a.src)
    for n, (axis, other) in enumerate(zip(axes, source, strict=True)):
        if n != place:
            c.units.unify(axis, other, why)
            c.units.equate(axis, other)
        elif a.step == 1:
            part = c.units.slice(axis, start, max(start, stop), why)
            c.units.unify(part, other, why)
            c.units.equate(part, other)
        else:
            c.units.freeze_axis(axis, why)
            c.units.freeze_axis(other, why)
    return c.axes(a.self)


@handles("select_scatter")
def select_scatter(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    place = a.dim % a.self.value.dim()
    why = c.because("it is written into one position")
    axes = c.axes(a.self)
    c.units.freeze_axis(axes[place], why)
    for axis, other in zip(axes[:place] + axes[place + 1 :], c.axes(a.src), strict=True):
        c.units.unify(axis, other, why)
        c.units.equate(axis, other)
    return c.axes(a.self)


@handles("select")
def select(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    place = a.dim % a.self.value.dim()
    index = a.index % a.self.value.shape[place]
    dims = take(c, a.self, place, index, index + 1)
    c.still([c.axis(d) for d in dims[place : place + 1]])
    return dims[:place] + dims[place + 1 :]


@handles("unbind")
def unbind(c: Context, a: SimpleNamespace, out: Any) -> list[list[Dim]]:
    place = a.dim % a.self.value.dim()
    pieces = [take(c, a.self, place, n, n + 1) for n in range(len(out))]
    return [dims[:place] + dims[place + 1 :] for dims in pieces]


@handles(
    "split",
    "split_with_sizes",
    "chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
    "tensor_split",
    "split_copy",
    "split_with_sizes_copy",
)
def split(c: Context, a: SimpleNamespace, out: Any) -> list[list[Dim]]:
    place, start, pieces = a.dim % a.self.value.dim(), 0, []
    for piece in out:
        pieces.append(take(c, a.self, place, start, start + piece.shape[place]))
        start += piece.shape[place]
    return pieces


@handles("index")
def index(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    used = [n for n, i in enumerate(a.indices) if i is not None]
    if any(a.indices[n].value.dtype in (torch.bool, torch.uint8) for n in used):
        return unknown(c, a, out)
    axes = c.axes(a.self)
    for n in used:
        if c.look_up(a.indices[n], axes[n]):
            c.carry(c.axes(a.indices[n]), axes[n])
    placed, _ = c.broadcast([c.axes(a.indices[n]) for n in used])
    rest = [axis for n, axis in enumerate(axes) if n not in used]
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    return [*rest[:at], *placed, *rest[at:]]


@handles("index_select")
def index_select(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims: list[Dim] = list(a.self.dims)
    if c.look_up(a.index, c.axis(dims[a.dim])):
        c.carry(c.axes(a.index), c.axis(dims[a.dim]))
    dims[a.dim] = c.axes(a.index)[0] if a.index.value.dim() else ONE
    return dims


@handles("gather")
def gather(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """Entries of one axis by number, at each place of the others."""
    axes, index = c.axes(a.self), c.axes(a.index)
    if not axes or a.self.value.dim() != a.index.value.dim():
        return unknown(c, a, out)
    place = a.dim % len(axes)
    c.look_up(a.index, axes[place])
    c.still([axes[place]])
    return [index[n] if n == place else _beside(c, axes[n], index[n]) for n in range(len(axes))]


@handles("one_hot")
def one_hot(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """A new axis with a one at each number."""
    if a.self.numbers is None or not a.self.direct:
        return unknown(c, a, out)
    axis = a.self.numbers.axis
    if c.units.size(axis) != out.shape[-1]:
        return unknown(c, a, out)
    a.self.numbers.use()
    c.still([axis])
    return [*c.axes(a.self), axis]


@handles("scatter")
def scatter(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """`self` with entries put, by number, on one axis."""
    axes, index = c.axes(a.self), c.axes(a.index)
    source = getattr(a, "src", None)
    if not axes or a.self.value.dim() != a.index.value.dim() or getattr(a, "reduce", None) is not None:
        return unknown(c, a, out)
    place = a.dim % len(axes)
    if a.self.zeros and a.index.numbers is not None and a.index.direct:
        axes[place] = a.index.numbers.axis  # zeros list no units
    c.look_up(a.index, axes[place])
    c.still([axes[place]])
    others = [index] if not isinstance(source, Traced) else [index, c.axes(source)]
    for other in others:
        for n in range(len(axes)):
            _beside(c, index[n] if n == place else axes[n], other[n])
    return axes


@handles("index_add", "scatter_add", "scatter_reduce")
def accumulate(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """`self` with entries added, by number, on one axis, as messages are to nodes of a graph."""
    if a.index.numbers is not None and a.index.direct and c.name == "scatter_add":
        return scatter(c, a, out)
    axes = c.axes(a.self)
    given = getattr(a, "source", None) or a.src
    source, index = c.axes(given), c.axes(a.index)
    place = a.dim % len(axes)
    alike = [n for n in range(len(axes)) if n != place]
    if any(c.units.size(axes[n]) != c.units.size(source[n]) for n in alike):
        return unknown(c, a, out)
    why = c.because("entries are added by number")
    for axis in (axes[place], source[place], index[place if len(index) == len(axes) else 0]):
        c.units.freeze_axis(axis, why)
    for n in alike:
        c.units.unify(axes[n], source[n], why)
        c.still([axes[n], source[n]])
        if len(index) == len(axes):  # scatter: a number for each entry
            _beside(c, source[n], index[n])
    return axes


def _beside(c: Context, axis: Structure, index: Structure) -> Structure:
    """An axis on which numbers stand beside what they look up: they may be fewer."""
    if c.units.size(axis) == c.units.size(index):
        c.units.unify(axis, index, c.because("sizes do not match"))
    else:
        c.units.freeze_axis(axis, c.because("only some of its places are looked up"))
    c.still([axis])
    return index
