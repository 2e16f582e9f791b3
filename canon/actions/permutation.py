r"""The group algebra: apply, invert, compose, random.

A permutation maps each group's name to an index tensor p with `new[i] = old[p[i]]`. Its shape is
(size,), or (outer size, size) for a group within another: position (h, c) of the new tensor takes
position (p_outer[h], p[h, c]) of the old one.

Every function takes leading batch axes alike on the permutation and on the tensors, so that a
thousand networks stacked on a first axis are relabelled by one gather.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from canon.spec import Axis, Factor, PermutationSpec
from canon.types import State

Permutation = Mapping[str, Tensor]


def identity(spec: PermutationSpec, batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """The permutation that moves nothing; tensors of shape (*batch, *spec.shape(group))."""
    return {
        name: torch.arange(group.size).expand(*batch, *spec.shape(name)).clone()
        for name, group in spec.groups.items()
    }


def random(
    spec: PermutationSpec, generator: torch.Generator, batch: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """A uniformly random element."""
    return {
        name: torch.rand(*batch, *spec.shape(name), generator=generator).argsort(dim=-1)
        for name in spec.groups
    }


def axis_index(spec: PermutationSpec, axis: Axis, permutation: Permutation) -> Tensor:
    """Source position of every position of `axis`: shape (*batch, axis.size)."""
    if len(axis.segments) == 1 and len(axis.segments[0]) == 1 and axis.groups:
        return permutation[next(iter(axis.groups))]
    parts, start = [], 0
    for segment in axis.segments:
        parts.append(start + _segment_index(spec, segment, permutation))
        start += parts[-1].shape[-1]
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], dim=-1)


def _segment_index(spec: PermutationSpec, segment: tuple[Factor, ...], permutation: Permutation) -> Tensor:
    place_of = {factor.group: place for place, factor in enumerate(segment)}
    source = torch.zeros([1] * max(len(segment), 1), dtype=torch.long)
    for place, factor in enumerate(segment):
        if factor.group is None:
            moved, own = torch.arange(factor.size), [place]
        else:
            outer = spec.groups[factor.group].within
            moved = permutation[factor.group]
            own = [place] if outer is None else [place_of[outer], place]
        # one axis for each factor, so that all of them combine by broadcasting
        shape = [segment[n].size if n in own else 1 for n in range(len(segment))]
        source = source * factor.size + moved.reshape(*moved.shape[: moved.dim() - len(own)], *shape)
    return source.flatten(source.dim() - max(len(segment), 1))


def apply(spec: PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """Relabel every tensor: a copy with the same keys, order, dtypes and devices.

    With a permutation of batch shape (networks,), every tensor carries that leading axis.
    Raises `InputError` where keys or shapes do not fit the spec.
    """
    first = next(iter(permutation), None)
    if first is None:  # nothing moves, and nothing says how many networks there are
        return {name: tensor.clone() for name, tensor in state.items()}
    batch = permutation[first].dim() - len(spec.shape(first))
    spec.check(state, batch=batch)
    return {name: relabel(spec, permutation, name, tensor, batch) for name, tensor in state.items()}


def relabel(spec: PermutationSpec, permutation: Permutation, name: str, tensor: Tensor, batch: int) -> Tensor:
    """One tensor as `apply` moves it; `batch` counts the leading axes. A copy."""
    moved = tensor
    for number, axis in enumerate(spec.axes[name]):
        if axis.groups:
            moved = take(moved, axis_index(spec, axis, permutation), batch + number)
    return moved.clone() if moved is tensor else moved


def take(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    """Positions `index` (*batch, positions) of axis `dim`; batch axes lead alike on the tensor.

    The tensor itself where nothing moves.
    """
    if index.dim() == 1 or index.numel() == index.shape[-1]:
        index = index.flatten()
        if len(index) == tensor.shape[dim] and torch.equal(
            index, torch.arange(len(index), device=index.device)
        ):
            return tensor
        return tensor.index_select(dim, index.to(tensor.device))
    index = index.to(tensor.device)
    # Whole rows of one long table: several times faster than a gather of single entries.
    rows = tensor.movedim(dim, index.dim() - 1)
    batch, size = rows.shape[: index.dim() - 1], rows.shape[index.dim() - 1]
    first = torch.arange(batch.numel(), device=tensor.device).mul(size).unsqueeze(-1)
    source = (first + index.expand(*batch, -1).reshape(len(first), -1)).flatten()
    taken = rows.reshape(len(first) * size, -1).index_select(0, source)
    return taken.reshape(*batch, index.shape[-1], *rows.shape[index.dim() :]).movedim(index.dim() - 1, dim)


def invert(spec: PermutationSpec, permutation: Permutation) -> dict[str, Tensor]:
    """The element that undoes `permutation`: apply(invert(p), apply(p, x)) is x, bit for bit."""
    plain = {name: p.argsort(dim=-1) for name, p in permutation.items()}
    return {name: _follow(plain[name], plain, spec.groups[name].within) for name in permutation}


def compose(spec: PermutationSpec, first: Permutation, then: Permutation) -> dict[str, Tensor]:
    """apply(compose(first, then), x) equals apply(then, apply(first, x))."""
    return {
        name: _follow(first[name], then, spec.groups[name].within).gather(-1, then[name]) for name in first
    }


def _follow(inner: Tensor, outer: Permutation, within: str | None) -> Tensor:
    """Rows of a nested element, carried to where `outer` moves their unit."""
    if within is None:
        return inner
    return torch.take_along_dim(inner, outer[within].unsqueeze(-1), dim=-2)
