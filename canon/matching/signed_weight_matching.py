r"""Weight matching where units may also be negated: the same problem with every unit there twice.

Beside each unit u of an odd activation stands its negative. Their Gram matrix with a reference treated
alike is ((G, -G), (-G, G)), whose best assignment takes |G|'s best assignment twice over, each unit with
its sign. So any matcher of permutations finds both together. Entries are divided by the root of two for
each copy: inner products, and the objective, are those of the networks.

Units within others are not doubled: they are matched as they stand, and negated afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.actions.joined_axes import joined
from canon.actions.signs import Signs, of_old_units, sign_groups, signs_towards
from canon.matching.linear_assignment import solve_many
from canon.matching.result import Match
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Factor, PermutationSpec
from canon.types import State


def match_signed(spec: PermutationSpec, reference: State, networks: State, **options: Any) -> Match:
    """`match_weights`, and the signs of the units of odd activations (tanh, sin).

    Args:
        spec: the symmetries of the architecture.
        reference: the state dict whose order is taken.
        networks: a state dict, or many stacked on a first axis of every tensor.
        options: those of `match_weights`.

    Returns:
        The match, with signs in `scales`: the aligned network is `apply(permutation, apply_scale(scales, network))`.

    Raises:
        InputError: keys or shapes do not fit the spec.

    Example:
        >>> import canon, torch
        >>> a = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> match = canon.match_signed(spec, a.state_dict(), a.state_dict())
        >>> sum(match.moved.values())
        0.0
    """
    groups = sign_groups(spec)
    if not groups:
        return match_weights(spec, reference, networks, **options)
    name, axes = next(iter(spec.axes.items()))
    batches = [state[name].dim() - len(axes) for state in (reference, networks)]
    _, (networks,) = joined(spec, networks, batch=batches[1])
    spec, (reference,) = joined(spec, reference, batch=batches[0])
    pairs = {name for name in groups if spec.groups[name].within is None} - {
        group.within for group in spec.groups.values()
    }
    twice = _doubled_spec(spec, pairs)
    found = match_weights(twice, _doubled(spec, pairs, reference), _doubled(spec, pairs, networks), **options)
    stacked = found.objective.dim() == 1
    wide = found.permutation if stacked else {name: p[None] for name, p in found.permutation.items()}
    permutation, signs = {}, {}
    for name, p in wide.items():
        if name in pairs:
            permutation[name], signs[name] = _halved(p, spec.groups[name].size)
        else:
            permutation[name] = p
            if name in groups:
                signs[name] = torch.ones(p.shape, dtype=torch.float64)
    signs = _settled(spec, reference, networks, permutation, signs)
    still = perm.identity(spec)
    moved = {name: float((p != still[name]).double().mean()) for name, p in permutation.items()}
    if not stacked:
        permutation, signs = ({n: t[0] for n, t in x.items()} for x in (permutation, signs))
    return replace(found, permutation=permutation, scales=signs, moved=moved)


def _settled(
    spec: PermutationSpec, reference: State, networks: State, permutation: perm.Permutation, signs: Signs
) -> Signs:
    """Signs of the old units, after each in its new place had a look at the reference."""
    count = len(next(iter(permutation.values())))
    name, axes = max(spec.axes.items(), key=lambda item: len(item[1]))
    a, b = (
        {k: t if s[name].dim() > len(axes) else t[None] for k, t in s.items()} for s in (reference, networks)
    )
    b = perm.apply_unchecked(spec, permutation, {k: t.expand(count, *t.shape[1:]) for k, t in b.items()})
    return of_old_units(spec, signs_towards(spec, a, b, signs), permutation)


def _halved(p: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """From (networks, 2 size) to the relabelling and the signs of the units in their new places."""
    found = p[:, :size] % size
    if not torch.equal(found.sort(1).values, torch.arange(size).expand_as(found)):
        # With ties a unit and its negative may get different places; their votes together still give a permutation.
        votes = torch.zeros(len(p), size, size, dtype=torch.float64)
        for half in (p[:, :size], p[:, size:]):
            votes.scatter_add_(2, (half % size).unsqueeze(2), votes.new_ones(*half.shape, 1))
        found = solve_many(votes)
    straight = (p[:, :size] == found) | (p[:, size:] == found + size)
    return found, straight.double() * 2 - 1


def _doubled_spec(spec: PermutationSpec, groups: set[str]) -> PermutationSpec:
    def twice(factor: Factor) -> Factor:
        return replace(factor, size=2 * factor.size) if factor.group in groups else factor

    return replace(
        spec,
        groups={n: replace(g, size=2 * g.size) if n in groups else g for n, g in spec.groups.items()},
        axes={
            name: tuple(Axis(tuple(tuple(twice(f) for f in seg) for seg in axis.segments)) for axis in axes)
            for name, axes in spec.axes.items()
        },
    )


def _doubled(spec: PermutationSpec, groups: set[str], state: State) -> dict[str, Tensor]:
    return {name: _with_negatives(spec.axes[name], groups, tensor) for name, tensor in state.items()}


def _with_negatives(axes: tuple[Axis, ...], groups: set[str], tensor: Tensor) -> Tensor:
    lead = tensor.dim() - len(axes)
    for number, axis in enumerate(axes, start=lead):
        if axis.groups & groups:
            sizes = [Axis((segment,)).size for segment in axis.segments]
            pieces = zip(axis.segments, tensor.split(sizes, number), strict=True)
            tensor = torch.cat([_segment(s, groups, piece, number) for s, piece in pieces], number)
    return tensor


def _segment(segment: tuple[Factor, ...], groups: set[str], tensor: Tensor, dim: int) -> Tensor:
    tensor = tensor.unflatten(dim, [factor.size for factor in segment])
    for place, factor in enumerate(segment, start=dim):
        if factor.group in groups:
            half = tensor * 2**-0.5 if tensor.is_floating_point() else tensor
            tensor = torch.cat([half, -half if factor.power % 2 else half], place)
    return tensor.flatten(dim, dim + len(segment) - 1)
