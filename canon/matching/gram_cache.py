r"""Cached Gram matrices of a match in progress, and the objective gain of a proposed change.

Each product is computed again only when something that it depends on moved, and where few positions
moved it is corrected by those. Products are taken in the weights' own precision; gains are judged in
float64, over the positions that would move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, reduce
from math import prod

import torch
from torch import Tensor

from canon.actions.permutation import Permutation, axis_index, identity, take
from canon.matching.gram import PIECE, AxisOccurrence, Family, Grams, families, gram, inner_product, uses
from canon.spec import Axis, Factor, PermutationSpec

# Share of |A| |B| by which a difference of float32 products may be wrong, generously.
ROUNDING = 2**-18

# Entries of a tensor that a product turns to its precision at once.
LARGE = 2**24

# What Gram matrices may take in memory while they wait to be asked for again.
KEPT_BYTES = 2**28

# Where at most this share of the positions moved, a product is corrected, not computed again.
FEW = 0.5


class Scores:
    """Gram matrices of many networks against a reference, recomputed only when stale.

    `reference` holds tensors (1, ...) or (networks, ...), `networks` holds (networks, ...), and
    `permutation` the present arrangement, (networks, ...) as well; `accept` changes it. Groups in `held` stay in
    the arrangement that it gives.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        reference: Mapping[str, Tensor],
        networks: Mapping[str, Tensor],
        permutation: Permutation,
        held: Permutation | None = None,
    ) -> None:
        self.held: Mapping[str, Tensor] = held or {}
        self.spec, self.reference, self.networks = spec, reference, networks
        self.permutation = {name: p.clone() for name, p in {**permutation, **self.held}.items()}
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
        self.uses: dict[Family, dict[frozenset[str], list[AxisOccurrence]]] = {}
        self._stale: dict[tuple[Family, frozenset[str]], Tensor] = {}
        self._room = KEPT_BYTES
        self._kept: dict[tuple[Family, frozenset[str]], Grams] = {}
        self._kept_at: dict[tuple[Family, frozenset[str]], dict[str, Tensor]] = {}
        for family in self.families:
            by_needs: dict[frozenset[str], list[AxisOccurrence]] = {}
            for use in uses(spec, family):
                if use.tensor in self.tensors:
                    by_needs.setdefault(use.needs, []).append(use)
            self.uses[family] = by_needs
            for needs in by_needs:
                self._stale[family, needs] = torch.ones(self.count, dtype=torch.bool)

    def size(self, tensor: str) -> int:
        """Entries of one network's tensor."""
        return self.networks[tensor][0].numel()

    def entries(self, family: Family) -> int:
        """Of the family's Gram matrices for one network."""
        signatures = {use.signature for chosen in self.uses[family].values() for use in chosen}
        sizes = (prod(self.spec.groups[name].size for name in (family.outer, *own)) for own in signatures)
        return sum(size**2 for size in sizes)

    def tensors_of(self, family: Family) -> set[str]:
        """The tensors whose entries the family's units hold."""
        return {use.tensor for chosen in self.uses[family].values() for use in chosen}

    def outer(self, family: Family, rows: Tensor) -> Tensor | None:
        """The arrangement in which the family's outer group is held, for the networks `rows`."""
        return self.held[family.outer][rows] if family.outer in self.held else None

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
                # Cached tensors must not change in place: the first addition makes a new tensor.
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
            size = sum(found.nbytes for found in part.values())
            if self._worth_keeping(family, needs) and len(rows) == self.count and size <= self._room:
                self._room -= size
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
        # Vectors are cheaper to multiply again; with many networks and one part, a cached part is out of date when needed.
        if len(self.uses[family]) == 1 and not self._few_moves_pay:
            return False
        return any(self.networks[use.tensor].dim() > 2 for use in self.uses[family][needs])

    @property
    def _few_moves_pay(self) -> bool:
        # In float64 exact ties must stay exact: products are computed again, not corrected by differences.
        return self.count == 1 and self.precision != torch.float64

    def _keep_arrangement(self, key: tuple[Family, frozenset[str]]) -> None:
        if self._few_moves_pay:
            self._kept_at[key] = {name: self.permutation[name].clone() for name in key[1]}

    def _follow(self, key: tuple[Family, frozenset[str]]) -> bool:
        """Update cached products for the positions that moved since; False where too many did."""
        if not self._few_moves_pay:
            return False
        changes = [(use, self._moves(use, self._kept_at[key])) for use in self.uses[key[0]][key[1]]]
        if any(change is None for _, change in changes):
            return False
        for use, change in changes:
            if change:
                self._kept[key][use.signature] += self._correction(use, *change)
        return True

    def _moves(
        self, use: AxisOccurrence, before: Permutation
    ) -> tuple[int, Tensor, Tensor] | tuple[()] | None:
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

    def _correction(self, use: AxisOccurrence, number: int, then: Tensor, now: Tensor) -> Tensor:
        axes, places = self.spec.axes[use.tensor], (then != now).nonzero().flatten()
        network, ours = self.networks[use.tensor], self.reference[use.tensor]
        for other, axis in enumerate(axes):
            if other not in (number, use.axis) and axis.groups:
                network = take(network, axis_index(self.spec, axis, self.permutation), 1 + other)
        new, old = (take(network, index[places], 1 + number).to(self.precision) for index in (now, then))
        rows = use.units(axes, take(ours, places, 1 + number).to(self.precision)).flatten(2)
        return gram(rows, use.units(axes, new - old).flatten(2)).cpu()

    def fresh(self, chosen: list[AxisOccurrence], rows: Tensor) -> Grams:
        """The Gram matrices of the uses `chosen`, summed by signature."""
        total: Grams = {}
        for use in chosen:
            axes = self.spec.axes[use.tensor]
            pair = self._reference(use.tensor, rows), self._arranged(use, rows)
            for piece in _pieces(pair, use.axis):
                ours, theirs = (use.units(axes, tensor).flatten(2).to(self.precision) for tensor in piece)
                part = gram(ours, theirs)
                known = total.get(use.signature)
                total[use.signature] = part.contiguous() if known is None else known.add_(part)
        return {signature: found.cpu() for signature, found in total.items()}

    def _arranged(self, use: AxisOccurrence, rows: Tensor) -> Tensor:
        """B's tensor with everything but the family on this axis in its present place."""
        tensor = self.networks[use.tensor]
        if len(rows) < self.count:
            tensor = tensor[rows]
        present = {name: self.permutation[name][rows] for name in use.needs}
        for number, axis in enumerate(self.spec.axes[use.tensor]):
            if number != use.axis and axis.groups:
                tensor = take(tensor, axis_index(self.spec, axis, present), 1 + number)
            elif number == use.axis and axis.groups - use.family.members:
                still = identity(self.spec, (len(rows),))
                # Groups of other segments of this axis do not matter to this one.
                home = {**still, **present, **{name: still[name] for name in use.family.members}}
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
            parts = [_norms(state[name]).double().cpu() for name in self.tensors]
            norms.append(torch.stack(parts).norm(dim=0) if parts else torch.zeros(1))
        return (norms[0] * norms[1]).expand(self.count)

    def _reference(self, tensor: str, rows: Tensor) -> Tensor:
        ours = self.reference[tensor]
        return ours if len(ours) == 1 else ours[rows]

    def linear(self, family: Family) -> bool:
        """Whether the objective is linear in this family: no tensor has it on two axes."""
        return not any(needs & family.members for needs in self.uses[family])

    def gain(self, family: Family, rows: Tensor, grams: Grams, proposal: Permutation) -> Tensor:
        """By how much `proposal` raises the objective of the networks `rows`, its sign exact: (networks,)."""
        present = {name: self.permutation[name][rows] for name in family.members}
        if not self.linear(family):
            return self._exact_gain(family, rows, present, proposal)
        gain = self.value(family, grams, proposal) - self.value(family, grams, present)
        if self.precision == torch.float64:
            return gain
        # Gains within the rounding error of float32 products are computed again in float64.
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
        touched = {use.tensor: use.axis for chosen in self.uses[family].values() for use in chosen}
        if self.count == 1 and self.linear(family):
            parts = [self._moved_gain(name, axis, proposal) for name, axis in touched.items()]
            return torch.stack(parts).sum(0)
        after, before = (self.objective(rows, p, touched) for p in (proposal, present))
        return after - before

    def _moved_gain(self, tensor: str, number: int, proposal: Permutation) -> Tensor:
        """What one tensor of the one network gains where axis `number` is arranged as in `proposal`: (1,)."""
        axes, ours, theirs = self.spec.axes[tensor], self.reference[tensor], self.networks[tensor]
        arrangements = (self.permutation, {**self.permutation, **proposal})
        then, now = (axis_index(self.spec, axes[number], p).flatten() for p in arrangements)
        places = (then != now).nonzero().flatten()
        gain = torch.zeros(1, dtype=torch.float64)
        for part in places.split(max(1, PIECE * len(then) // theirs.numel())):
            new, old = (self._taken(tensor, number, index[part]).double() for index in (now, then))
            gain += inner_product(take(ours, part, 1 + number), new - old)
        return gain

    def _taken(self, tensor: str, number: int, index: Tensor) -> Tensor:
        """B's tensor at the positions `index` of one axis, its other axes in their present place."""
        taken = take(self.networks[tensor], index, 1 + number)
        for other, axis in enumerate(self.spec.axes[tensor]):
            if other != number and axis.groups:
                taken = take(taken, axis_index(self.spec, axis, self.permutation), 1 + other)
        return taken

    def accept(self, family: Family, rows: Tensor, proposal: Permutation) -> None:
        """Put the networks `rows` into the family's arrangement `proposal`."""
        for name in family.members:
            self.permutation[name][rows] = proposal[name]
        for (_, needs), stale in self._stale.items():
            if needs & family.members:
                stale[rows] = True

    def rest(self, losing: Tensor) -> None:
        """Skip the networks `losing` from now on, (networks,) of booleans."""
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


def _pieces(pair: tuple[Tensor, Tensor], axis: int) -> Iterator[tuple[Tensor, ...]]:
    """The pair (networks, *shape), cut along an axis other than `axis` where it is large."""
    theirs = pair[1]
    others = [n for n in range(1, theirs.dim()) if n != 1 + axis]
    count = -(-theirs.numel() // LARGE)
    if count < 2 or not others:
        yield pair
        return
    longest = max(others, key=theirs.size)
    size = -(-theirs.size(longest) // count)
    yield from zip(*(tensor.split(size, longest) for tensor in pair), strict=True)


def _norms(tensor: Tensor) -> Tensor:
    """The norm of each network's tensor, (networks,); that of a single one without a copy of the whole."""
    if len(tensor) == 1:
        return inner_product(tensor, tensor).sqrt()
    return torch.linalg.vector_norm(tensor.flatten(1).float(), dim=1)
