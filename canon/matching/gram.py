r"""Inner products of units: the scores that matching by weights maximises.

The objective is sum over tensors T of <A_T, P B_T>, in float64. For one group with all others held it
is linear in that group's permutation, and its coefficients are a Gram matrix: unit i of A against
unit j of B, summed over every position that mentions them.

A `Family` is a group together with the groups nested in it; they are solved jointly. A `AxisOccurrence` is one
segment of one tensor axis that mentions a family. Its Gram matrix runs over the units of that segment
(heads x channels, say) and is filed under the nested groups that it involves.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from canon.spec import Axis, Factor, PermutationSpec

# Entries that an inner product turns to float64 at once.
PIECE = 2**18

# grams[nested groups involved] has shape (networks, units of A, units of B)
Grams = dict[tuple[str, ...], Tensor]


@dataclass(frozen=True)
class Family:
    """A group that lies within no other, and the groups nested in it."""

    outer: str
    inners: tuple[str, ...]

    @property
    def members(self) -> frozenset[str]:
        return frozenset((self.outer, *self.inners))


@dataclass(frozen=True)
class AxisOccurrence:
    """One segment of one axis of a tensor in which a family's units live.

    `needs` names the groups whose arrangement changes the Gram matrix; the family itself is among
    them where it also acts on another axis of the tensor.
    """

    family: Family
    tensor: str
    axis: int
    start: int
    segment: tuple[Factor, ...]
    needs: frozenset[str]

    @property
    def signature(self) -> tuple[str, ...]:
        here = {factor.group for factor in self.segment}
        return tuple(inner for inner in self.family.inners if inner in here)

    def units(self, axes: tuple[Axis, ...], tensor: Tensor) -> Tensor:
        """(networks, units, moving, fixed): a unit's entries, apart as others move them or not.

        The units come in the order (outer, *signature).
        """
        dim = 1 + self.axis
        length = prod(factor.size for factor in self.segment)
        opened = tensor.narrow(dim, self.start, length).unflatten(dim, [f.size for f in self.segment])
        place = {factor.group: dim + number for number, factor in enumerate(self.segment)}
        own = [place[group] for group in (self.family.outer, *self.signature)]
        # one flag per axis of `opened`: is it relabelled by a group?
        flags: list[bool] = [False]
        for number, axis in enumerate(axes):
            flags += (
                [f.group is not None for f in self.segment] if number == self.axis else [bool(axis.groups)]
            )
        rest = [n for n in range(1, opened.dim()) if n not in own]
        moving, fixed = [n for n in rest if flags[n]], [n for n in rest if not flags[n]]
        shape = [prod(opened.shape[n] for n in part) for part in (own, moving, fixed)]
        return opened.permute(0, *own, *moving, *fixed).reshape(len(tensor), *shape)


def families(spec: PermutationSpec) -> tuple[Family, ...]:
    """Every family of the spec, in the order of its outer groups."""
    return tuple(
        Family(name, tuple(inner for inner, nested in spec.groups.items() if nested.within == name))
        for name, group in spec.groups.items()
        if group.within is None
    )


def uses(spec: PermutationSpec, family: Family) -> tuple[AxisOccurrence, ...]:
    """Every use of `family` in a tensor that counts for the objective."""
    found = []
    for tensor, axes in spec.axes.items():
        for number, axis in enumerate(axes if tensor not in spec.statistics else ()):
            elsewhere = frozenset[str]().union(*(a.groups for n, a in enumerate(axes) if n != number))
            start = 0
            for segment in axis.segments:
                here = frozenset(factor.group for factor in segment if factor.group is not None)
                if family.outer in here:
                    needs = elsewhere | (here - family.members)
                    found.append(AxisOccurrence(family, tensor, number, start, segment, needs))
                start += prod(factor.size for factor in segment)
    return tuple(found)


def gram(ours: Tensor, theirs: Tensor) -> Tensor:
    """(1 or networks, units, rest) against (networks, units, rest): (networks, units, units)."""
    if len(ours) == 1 and len(theirs) > 1:
        return (theirs.flatten(0, 1) @ ours[0].T).unflatten(0, theirs.shape[:2]).mT
    return ours @ theirs.mT


def inner_product(ours: Tensor, theirs: Tensor) -> Tensor:
    """(1 or networks, ...) with (networks, ...): (networks,), in float64."""
    if len(theirs) == 1:
        total = torch.zeros(1, dtype=torch.float64)
        # In pieces: a whole tensor in float64 would be the largest thing in memory.
        for one, other in zip(ours.flatten().split(PIECE), theirs.flatten().split(PIECE), strict=True):
            total += torch.dot(one.double(), other.double()).cpu()
        return total
    if len(ours) == 1:
        return (theirs.flatten(1).double() @ ours[0].flatten().double()).cpu()
    return (ours.flatten(1).double() * theirs.flatten(1).double()).sum(1).cpu()
