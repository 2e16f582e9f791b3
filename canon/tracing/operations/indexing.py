"""Entries taken by position: slices, splits, indices."""

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
        numbers = a.indices[n].numbers
        if numbers is not None and a.indices[n].direct:  # experts, by the numbers that a router gave
            c.units.unify(numbers.axis, axes[n], c.because("sizes do not match"))
            numbers.used = True
            c.carry(c.axes(a.indices[n]), axes[n])
        else:
            c.units.freeze_axis(axes[n], c.because("it is indexed by number"))
    placed, _ = c.broadcast([c.axes(a.indices[n]) for n in used])
    rest = [axis for n, axis in enumerate(axes) if n not in used]
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    return [*rest[:at], *placed, *rest[at:]]


@handles("index_select")
def index_select(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims: list[Dim] = list(a.self.dims)
    c.units.freeze_axis(c.axis(dims[a.dim]), c.because("it is indexed by number"))
    dims[a.dim] = c.axes(a.index)[0] if a.index.value.dim() else ONE
    return dims
