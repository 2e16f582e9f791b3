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

from canon.actions.joined_axes import axes_and_tensor, part
from canon.spec import Axis, Factor, PermutationSpec
from canon.types import State

Permutation = Mapping[str, Tensor]


def identity(spec: PermutationSpec, batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """The permutation that moves nothing.

    Args:
        spec: the symmetries of the architecture.
        batch: leading axes, such as (networks,).

    Returns:
        For each group a tensor of shape (*batch, *spec.shape(group)).

    Raises:
        KeyError: never for a valid spec.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> next(iter(canon.identity(spec).values())).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return {
        name: torch.arange(group.size).expand(*batch, *spec.shape(name)).clone()
        for name, group in spec.groups.items()
    }


def random(
    spec: PermutationSpec, generator: torch.Generator, batch: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """A uniformly random permutation of every group.

    Args:
        spec: the symmetries of the architecture.
        generator: the source of randomness.
        batch: leading axes, such as (networks,).

    Returns:
        For each group a tensor of shape (*batch, *spec.shape(group)).

    Raises:
        RuntimeError: the generator is on another device than the processor.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> p = canon.random(spec, torch.Generator().manual_seed(0))
        >>> sorted(next(iter(p.values())).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
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
    """Permute every tensor: a copy with the same keys, order, dtypes and devices.

    Args:
        spec: the symmetries of the architecture.
        permutation: for each group, the old unit at each new place; with a leading axis of networks, every tensor
            of `state` carries it too.
        state: a state dict of the architecture.

    Returns:
        The permuted state dict.

    Raises:
        InputError: keys or shapes do not fit the spec.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> moved = canon.apply(spec, canon.random(spec, torch.Generator().manual_seed(0)), net.state_dict())
        >>> canon.equivalent(moved, net).same
        True
    """
    if permutation:  # an empty permutation moves nothing and has no batch axes
        spec.check(state, batch=_batch(spec, permutation))
    return apply_unchecked(spec, permutation, state)


def apply_unchecked(spec: PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """`apply` to a state that was checked against the spec."""
    if not permutation:
        return {name: tensor.clone() for name, tensor in state.items()}
    batch = _batch(spec, permutation)
    return {name: relabel(spec, permutation, name, tensor, batch) for name, tensor in state.items()}


def _batch(spec: PermutationSpec, permutation: Permutation) -> int:
    """Number of leading axes of networks."""
    first = next(iter(permutation))
    return permutation[first].dim() - len(spec.shape(first))


def relabel(spec: PermutationSpec, permutation: Permutation, name: str, tensor: Tensor, batch: int) -> Tensor:
    """One tensor as `apply` moves it; `batch` counts the leading axes. A copy."""
    axes, laid = axes_and_tensor(spec, name, tensor, batch)
    moved = laid
    for number, axis in enumerate(axes):
        if axis.groups:
            moved = take(moved, axis_index(spec, axis, permutation), batch + number)
    if moved is laid:
        return tensor.clone()
    return part(spec, name, moved, batch).contiguous() if name in spec.joins else moved


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
        return _select(tensor, dim, index)
    index = index.to(tensor.device)
    # Whole rows of one long table: several times faster than a gather of single entries.
    rows = tensor.movedim(dim, index.dim() - 1)
    batch, size = rows.shape[: index.dim() - 1], rows.shape[index.dim() - 1]
    first = torch.arange(batch.numel(), device=tensor.device).mul(size).unsqueeze(-1)
    source = (first + index.expand(*batch, -1).reshape(len(first), -1)).flatten()
    taken = rows.reshape(len(first) * size, -1).index_select(0, source)
    return taken.reshape(*batch, index.shape[-1], *rows.shape[index.dim() :]).movedim(index.dim() - 1, dim)


# Of one size: what a number means does not matter where it is only moved.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """`index_select`; on the last axis by numpy, which takes a quarter of the time there."""
    plain = type(tensor) is Tensor and tensor.device.type == "cpu" and not tensor.requires_grad
    if not plain or dim != tensor.dim() - 1 or tensor.is_complex() or not tensor.is_contiguous():
        return tensor.index_select(dim, index.to(tensor.device))
    numbers = tensor.view(_INTEGERS[tensor.dtype.itemsize]).numpy()
    taken = numbers.take(index.cpu().numpy(), axis=dim)
    return torch.from_numpy(taken).view(tensor.dtype)


def invert(spec: PermutationSpec, permutation: Permutation) -> dict[str, Tensor]:
    """The permutation that undoes another.

    Args:
        spec: the symmetries of the architecture.
        permutation: for each group, the old unit at each new place.

    Returns:
        A permutation: `apply(invert(p), apply(p, x))` is x, bit for bit.

    Raises:
        InputError: the permutation does not fit the spec.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> p = canon.random(spec, torch.Generator().manual_seed(0))
        >>> back = canon.apply(spec, canon.invert(spec, p), canon.apply(spec, p, net.state_dict()))
        >>> torch.equal(back["0.weight"], net.state_dict()["0.weight"])
        True
    """
    plain = {name: p.argsort(dim=-1) for name, p in permutation.items()}
    return {name: _follow(plain[name], plain, spec.groups[name].within) for name in permutation}


def compose(spec: PermutationSpec, first: Permutation, then: Permutation) -> dict[str, Tensor]:
    """The permutation that does `first` and then `then`.

    Args:
        spec: the symmetries of the architecture.
        first: for each group, the old unit at each new place.
        then: likewise, applied to the result.

    Returns:
        A permutation: `apply(compose(first, then), x)` equals `apply(then, apply(first, x))`.

    Raises:
        InputError: a permutation does not fit the spec.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> p = canon.random(spec, torch.Generator().manual_seed(0))
        >>> both = canon.compose(spec, p, canon.invert(spec, p))
        >>> all(torch.equal(both[g], canon.identity(spec)[g]) for g in both)
        True
    """
    return {
        name: _follow(first[name], then, spec.groups[name].within).gather(-1, then[name]) for name in first
    }


def _follow(inner: Tensor, outer: Permutation, within: str | None) -> Tensor:
    """Move the rows of a nested permutation along with their outer units."""
    if within is None:
        return inner
    return torch.take_along_dim(inner, outer[within].unsqueeze(-1), dim=-2)
