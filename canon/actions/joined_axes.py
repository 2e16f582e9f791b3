"""Merge two axes of a tensor into one where units on one axis are nested in units on the other.

A tensor (experts, units, inputs) whose units are those of each expert becomes (experts x units, inputs); where the axis
of units is a concatenation, so is the joined one, segment by segment.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from canon.spec import Axis, PermutationSpec
from canon.types import LazyState, State


def joined(spec: PermutationSpec, *states: State, batch: int = 0) -> tuple[PermutationSpec, list[State]]:
    """Rewrite a spec and its states so that every nested group shares an axis with its outer group.

    `batch` leading axes are left where they are.
    """
    if not spec.joins:
        return spec, list(states)
    axes = {name: joined_axes(spec, name) if name in spec.joins else own for name, own in spec.axes.items()}
    return replace(spec, axes=axes), [_joined_state(spec, state, batch) for state in states]


def _joined_state(spec: PermutationSpec, state: State, batch: int) -> State:
    made = LazyState(
        state, lambda name: join(spec, name, state[name], batch) if name in spec.joins else state[name]
    )
    return made if isinstance(state, LazyState) else dict(made)


def joined_axes(spec: PermutationSpec, name: str) -> tuple[Axis, ...]:
    """The axes of the tensor `name`, joined."""
    outer, inner = spec.joins[name]
    axes = spec.axes[name]
    (factor,) = axes[outer].segments[0]
    both = Axis(tuple((factor, *segment) for segment in axes[inner].segments))
    return tuple(both if n == inner else axis for n, axis in enumerate(axes) if n != outer)


def join(spec: PermutationSpec, name: str, tensor: Tensor, batch: int = 0) -> Tensor:
    """The tensor `name` with its two axes joined."""
    outer, place, sizes = _layout(spec, name, batch)
    rows = tensor.movedim(outer, place)
    parts = [part.flatten(place, place + 1) for part in rows.split(sizes, place + 1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, place)


def part(spec: PermutationSpec, name: str, tensor: Tensor, batch: int = 0) -> Tensor:
    """The tensor `name` in its own axes again: the inverse of `join`."""
    outer, place, sizes = _layout(spec, name, batch)
    count = spec.axes[name][spec.joins[name][0]].size
    parts = tensor.split([count * size for size in sizes], place)
    opened = [one.unflatten(place, (count, size)) for one, size in zip(parts, sizes, strict=True)]
    return (opened[0] if len(opened) == 1 else torch.cat(opened, place + 1)).movedim(place, outer)


def _layout(spec: PermutationSpec, name: str, batch: int) -> tuple[int, int, list[int]]:
    """The outer axis, the position of the joined axis, and the segment lengths of the inner axis."""
    outer, inner = spec.joins[name]
    sizes = [Axis((segment,)).size for segment in spec.axes[name][inner].segments]
    return batch + outer, batch + inner - (outer < inner), sizes


def axes_and_tensor(
    spec: PermutationSpec, name: str, tensor: Tensor, batch: int = 0
) -> tuple[tuple[Axis, ...], Tensor]:
    """The axes of the tensor `name` and the tensor, joined where it has to be."""
    if name not in spec.joins:
        return spec.axes[name], tensor
    return joined_axes(spec, name), join(spec, name, tensor, batch)
