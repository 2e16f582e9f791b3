r"""Inner products of units: the scores that matching by weights maximises.

The objective is sum over tensors T of <A_T, P B_T>, in float64. For one group with all others held it
is linear in that group's permutation, and its coefficients are a Gram matrix: unit i of A against
unit j of B, summed over every position that mentions them.

A `Family` is a group together with the groups nested in it; they are solved jointly. A `Use` is one
segment of one tensor axis that mentions a family. Its Gram matrix runs over the units of that segment
(heads x channels, say) and is filed under the nested groups that it involves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod

import torch
from torch import Tensor

from canon.permutation import Permutation, axis_index, identity, take
from canon.spec import Axis, Factor, PermutationSpec

# Share of |A| |B| by which a difference of float32 products may be wrong, generously.
ROUNDING = 2**-18

# Where at most this share of the positions moved, a product is corrected, not computed again.
FEW = 0.5

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
class Use:
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


def uses(spec: PermutationSpec, family: Family) -> tuple[Use, ...]:
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
                    found.append(Use(family, tensor, number, start, segment, needs))
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


class Scores:
    """Gram matrices of many networks against a reference, each computed again only when it went stale.

    `reference` holds tensors (1, ...) or (networks, ...), `networks` holds (networks, ...), and
    `permutation` the present arrangement, (networks, ...) as well; `accept` changes it.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        reference: Mapping[str, Tensor],
        networks: Mapping[str, Tensor],
        permutation: Permutation,
    ) -> None:
        self.spec, self.reference, self.networks = spec, reference, networks
        self.permutation = {name: p.clone() for name, p in permutation.items()}
        self.count = next(iter(networks.values())).shape[0]
        self.families = families(spec)
        self.tensors = [
            name for name, t in networks.items() if t.is_floating_point() and name not in spec.statistics
        ]
        # Products in the weights' own precision, at least float32; what they gain is judged in float64.
        self.precision = reduce(
            torch.promote_types,
            (state[name].dtype for state in (reference, networks) for name in self.tensors),
            torch.float32,
        )
        self.uses: dict[Family, dict[frozenset[str], list[Use]]] = {}
        self._stale: dict[tuple[Family, frozenset[str]], Tensor] = {}
        self._kept: dict[tuple[Family, frozenset[str]], Grams] = {}
        self._kept_at: dict[tuple[Family, frozenset[str]], dict[str, Tensor]] = {}
        for family in self.families:
            by_needs: dict[frozenset[str], list[Use]] = {}
            for use in uses(spec, family):
                if use.tensor in self.tensors:
                    by_needs.setdefault(use.needs, []).append(use)
            self.uses[family] = by_needs
            for needs in by_needs:
                self._stale[family, needs] = torch.ones(self.count, dtype=torch.bool)

    def size(self, tensor: str) -> int:
        """Entries of one network's tensor."""
        return self.networks[tensor][0].numel()

    def dirty(self, family: Family) -> Tensor:
        """Indices of the networks whose scores for `family` changed since they were last asked for."""
        stale = [self._stale[family, needs] for needs in self.uses[family]]
        return torch.stack(stale).any(0).nonzero().flatten() if stale else torch.zeros(0, dtype=torch.long)

    def grams(self, family: Family, rows: Tensor, known: Collection[frozenset[str]] | None = None) -> Grams:
        """The family's Gram matrices under the present arrangement, for the networks `rows`.

        From the uses with the needs `known` only, where given.
        """
        total: Grams = {}
        own: set[tuple[str, ...]] = set()
        for needs in self.uses[family] if known is None else known:
            for signature, part in self._part(family, needs, rows).items():
                # What is kept is not to be added to: the first sum makes a tensor of our own.
                if signature not in total:
                    total[signature] = part
                elif signature in own:
                    total[signature].add_(part)
                else:
                    total[signature] = total[signature] + part
                    own.add(signature)
        return total

    def _part(self, family: Family, needs: frozenset[str], rows: Tensor) -> Grams:
        key, chosen, stale = (family, needs), self.uses[family][needs], self._stale[family, needs]
        old = rows[stale[rows]]
        stale[rows] = False
        if key not in self._kept:
            part = self.fresh(chosen, rows)
            if self._worth_keeping(family, needs) and len(rows) == self.count:
                self._kept[key] = part
                self._keep_arrangement(key)
            return part
        if len(old) and not self._follow(key):
            for signature, found in self.fresh(chosen, old).items():
                self._kept[key][signature][old] = found
        if len(old):
            self._keep_arrangement(key)
        everyone = len(rows) == self.count
        return {names: found if everyone else found[rows] for names, found in self._kept[key].items()}

    def _worth_keeping(self, family: Family, needs: frozenset[str]) -> bool:
        # Vectors are cheaper to multiply again; of many networks, a single part is never asked for while fresh.
        if len(self.uses[family]) == 1 and not self._few_moves_pay:
            return False
        return any(self.networks[use.tensor].dim() > 2 for use in self.uses[family][needs])

    @property
    def _few_moves_pay(self) -> bool:
        # In float64 exact ties are to stay exact: there nothing is added to a product and taken away.
        return self.count == 1 and self.precision != torch.float64

    def _keep_arrangement(self, key: tuple[Family, frozenset[str]]) -> None:
        if self._few_moves_pay:
            self._kept_at[key] = {name: self.permutation[name].clone() for name in key[1]}

    def _follow(self, key: tuple[Family, frozenset[str]]) -> bool:
        """Correct what is kept by the positions that moved since; False where too many did."""
        if not self._few_moves_pay:
            return False
        changes = [(use, self._moves(use, self._kept_at[key])) for use in self.uses[key[0]][key[1]]]
        if any(change is None for _, change in changes):
            return False
        for use, change in changes:
            if change:
                self._kept[key][use.signature] += self._correction(use, *change)
        return True

    def _moves(self, use: Use, before: Permutation) -> tuple[int, Tensor, Tensor] | tuple[()] | None:
        """The one axis on which positions moved, its index before and now; () for none, None for too many."""
        moves: tuple[int, Tensor, Tensor] | tuple[()] = ()
        for number, axis in enumerate(self.spec.axes[use.tensor]):
            if number == use.axis and axis.groups - use.family.members:
                return None
            if number == use.axis or not axis.groups:
                continue
            then, now = (axis_index(self.spec, axis, p).flatten() for p in (before, self.permutation))
            share = float((then != now).double().mean())
            if share > FEW or (share and moves):
                return None
            moves = (number, then, now) if share else moves
        return moves

    def _correction(self, use: Use, number: int, then: Tensor, now: Tensor) -> Tensor:
        axes, places = self.spec.axes[use.tensor], (then != now).nonzero().flatten()
        network, ours = self.networks[use.tensor], self.reference[use.tensor]
        for other, axis in enumerate(axes):
            if other not in (number, use.axis) and axis.groups:
                network = take(network, axis_index(self.spec, axis, self.permutation), 1 + other)
        new, old = (take(network, index[places], 1 + number).to(self.precision) for index in (now, then))
        rows = use.units(axes, take(ours, places, 1 + number).to(self.precision)).flatten(2)
        return gram(rows, use.units(axes, new - old).flatten(2)).cpu()

    def fresh(self, chosen: list[Use], rows: Tensor) -> Grams:
        """The Gram matrices of the uses `chosen`, summed by signature."""
        total: Grams = {}
        for use in chosen:
            axes = self.spec.axes[use.tensor]
            theirs = use.units(axes, self._arranged(use, rows)).flatten(2)
            ours = use.units(axes, self._reference(use.tensor, rows)).flatten(2)
            part = gram(ours.to(self.precision), theirs.to(self.precision))
            known = total.get(use.signature)
            total[use.signature] = part.contiguous() if known is None else known.add_(part)
        return {signature: found.cpu() for signature, found in total.items()}

    def _arranged(self, use: Use, rows: Tensor) -> Tensor:
        """B's tensor with everything but the family on this axis in its present place."""
        tensor, still = self.networks[use.tensor], identity(self.spec, (len(rows),))
        if len(rows) < self.count:
            tensor = tensor[rows]
        present = {**still, **{name: self.permutation[name][rows] for name in use.needs}}
        home = {**present, **{name: still[name] for name in use.family.members}}
        for number, axis in enumerate(self.spec.axes[use.tensor]):
            if number != use.axis and axis.groups:
                tensor = take(tensor, axis_index(self.spec, axis, present), 1 + number)
            elif number == use.axis and axis.groups - use.family.members:
                tensor = take(tensor, axis_index(self.spec, axis, home), 1 + number)
        return tensor

    def objective(
        self,
        rows: Tensor | None = None,
        changed: Permutation | None = None,
        tensors: Collection[str] | None = None,
    ) -> Tensor:
        """Inner product of the reference and the networks `rows` as arranged, `changed` put in: (networks,).

        Over `tensors` only, where given.
        """
        rows = torch.arange(self.count) if rows is None else rows
        arrangement = {**{name: p[rows] for name, p in self.permutation.items()}, **(changed or {})}
        total = torch.zeros(len(rows), dtype=torch.float64)
        for name in self.tensors if tensors is None else tensors:
            theirs = self.networks[name] if len(rows) == self.count else self.networks[name][rows]
            for number, axis in enumerate(self.spec.axes[name]):
                if axis.groups:
                    theirs = take(theirs, axis_index(self.spec, axis, arrangement), 1 + number)
            total += inner_product(self._reference(name, rows), theirs)
        return total

    @cached_property
    def scale(self) -> Tensor:
        """|A| |B| for every network: what a change of the objective is small against."""
        norms = []
        for state in (self.reference, self.networks):
            parts = [torch.linalg.vector_norm(state[name].flatten(1).float(), dim=1) for name in self.tensors]
            norms.append(torch.stack(parts).double().norm(dim=0).cpu() if parts else torch.zeros(1))
        return (norms[0] * norms[1]).expand(self.count)

    def _reference(self, tensor: str, rows: Tensor) -> Tensor:
        ours = self.reference[tensor]
        return ours if len(ours) == 1 else ours[rows]

    def linear(self, family: Family) -> bool:
        """Is the objective linear in this family: does no tensor carry it on two axes?"""
        return not any(needs & family.members for needs in self.uses[family])

    def gain(self, family: Family, rows: Tensor, grams: Grams, proposal: Permutation) -> Tensor:
        """By how much `proposal` raises the objective of the networks `rows`, its sign exact: (networks,)."""
        present = {name: self.permutation[name][rows] for name in family.members}
        if not self.linear(family):
            return self._exact_gain(family, rows, present, proposal)
        gain = self.value(family, grams, proposal) - self.value(family, grams, present)
        if self.precision == torch.float64:
            return gain
        # Anything that float32 products might have made up is computed again.
        doubtful = (gain.abs() <= ROUNDING * self.scale[rows]).nonzero().flatten()
        if len(doubtful):
            before, after = ({n: p[doubtful] for n, p in part.items()} for part in (present, proposal))
            gain[doubtful] = self._exact_gain(family, rows[doubtful], before, after)
        return gain

    def _exact_gain(
        self, family: Family, rows: Tensor, present: Permutation, proposal: Permutation
    ) -> Tensor:
        same = [torch.equal(present[name], proposal[name]) for name in family.members]
        if all(same):
            return torch.zeros(len(rows), dtype=torch.float64)
        touched = {use.tensor for chosen in self.uses[family].values() for use in chosen}
        after, before = (self.objective(rows, p, touched) for p in (proposal, present))
        return after - before

    def accept(self, family: Family, rows: Tensor, proposal: Permutation) -> None:
        """Put the networks `rows` into the family's arrangement `proposal`."""
        for name in family.members:
            self.permutation[name][rows] = proposal[name]
        for (_, needs), stale in self._stale.items():
            if needs & family.members:
                stale[rows] = True

    def rest(self, losing: Tensor) -> None:
        """Look no further at the networks `losing`, (networks,) of booleans."""
        for stale in self._stale.values():
            stale[losing] = False
        if losing.all():
            self._kept.clear()

    def value(self, family: Family, grams: Grams, permutation: Permutation) -> Tensor:
        """The part of the objective that the Gram matrices see, (networks,)."""
        total = torch.zeros(1, dtype=torch.float64)
        for signature, found in grams.items():
            names = (family.outer, *signature)
            segment = tuple(Factor(self.spec.groups[name].size, name) for name in names)
            index = axis_index(self.spec, Axis((segment,)), permutation)
            total = total + found.gather(-1, index[..., None]).sum((-1, -2))
        return total
