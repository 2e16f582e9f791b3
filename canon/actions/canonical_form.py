r"""Sort units into a canonical order without a reference network: every permuted copy gives the same bits.

Colour refinement (Weisfeiler and Leman 1968). A unit's colour is the rank, among its group, of what it
sees: its weights, each with the colours of the units at its other end, sorted. Colours make finer
colours until nothing splits. All of it compares bits and adds nothing up, so that no order of
summation can leak in. With trained weights one look at one tensor tells all units apart.

Units of odd activations may also be negated: they are ordered by the size of what they see, and their
signs fixed afterwards (`canon.actions.signs`).

Units that stay alike are either interchangeable (dead, or copies: any order gives the same bits), or
tied by regularity, as in quantised weights; there choices are followed, those that an automorphism maps to
one another once, and the least outcome taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from math import prod

import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.actions.joined_axes import joined
from canon.actions.scaling import apply_scale_unchecked, multiplier, places
from canon.actions.signs import fix_signs, of_old_units, sign_groups, signed_tensors
from canon.errors import InputError
from canon.io.dtypes import computable
from canon.spec import Axis, PermutationSpec
from canon.types import LazyState, State, like

# colours[group] has the shape of an element of the group; equal where units look alike.
Colours = dict[str, Tensor]

# Refinements after which a search gives up: seconds to minutes, where trained weights take one.
BUDGET = 5_000

# Entries of a network up to which its bits are kept while it is ordered; those of others are made for each look.
KEPT = 2**26

# Entries of a tensor that are sorted at once.
SORTED = 2**21

# Entries up to which all are compared at once, not column after column until they differ.
FEW = 2**16

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def canonicalize(spec: PermutationSpec, state: State) -> dict[str, Tensor]:
    """The state in canonical order: canonicalize(apply(g, x)) is canonicalize(x), bit for bit.

    Only relabels, and negates units of odd activations, so that the function stays. Raises
    `InputError` where the state does not fit the spec or holds NaN, which has no order.
    """
    permutation, signs = canonical_element(spec, state)
    signed = apply_scale_unchecked(spec, signs, state) if signs else state
    return perm.apply_unchecked(spec, permutation, signed)


def canonical_element(spec: PermutationSpec, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The permutation that `canonicalize` applies, and the unit signs that it applies first."""
    shapes = like(state)
    spec.check(shapes)
    spec, (state,) = joined(spec, state)
    signed = signed_tensors(spec)

    def make(name: str) -> Tensor:
        return _signed_bits(state[name]) if name in signed else _ordered_bits(state[name])

    # Small tensors first: a bias is cheaper to sort than a matrix. Statistics only where weights are alike.
    names = sorted(shapes, key=lambda name: (name in spec.statistics, shapes[name].numel(), name))
    for name in names:
        if state[name].is_floating_point() and computable(state[name]).isnan().any():
            raise InputError(f"{name} holds NaN, which has no order")
    bits = LazyState(names, make)
    few = sum(tensor.numel() for tensor in shapes.values()) <= KEPT
    start = {name: torch.zeros(spec.shape(name), dtype=torch.long) for name in spec.groups}
    order = _order(spec, _Search(spec, dict(bits) if few else bits).settle(start))
    ordered = LazyState(names, lambda name: perm.relabel(spec, order, name, computable(state[name]), 0))
    return order, of_old_units(spec, fix_signs(spec, ordered), order)


def _ordered_bits(tensor: Tensor) -> Tensor:
    """Integers that order as the floats do, different for different bits (0.0 and -0.0, say)."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bool:
        return tensor.byte()
    bits = tensor.view(_INTEGER[tensor.element_size()])
    if tensor.is_floating_point():
        bits = torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
    return bits


def _signed_bits(tensor: Tensor) -> Tensor:
    """As `_ordered_bits`, for units whose sign may change: the negative value maps to the negative
    integer.
    """
    tensor = computable(tensor)  # exact, and in the same order
    bits = _ordered_bits(tensor.abs())
    return bits * tensor.detach().cpu().sign().to(bits.dtype)


class TooRegular(InputError):
    """The search for a canonical order was given up."""


class _Search:
    """Individualization-refinement search: the smallest result over all ways to break ties between units.

    Two ways that end in the same bits show an automorphism. A unit that one maps to a unit already looked
    at, the colours so far kept, has nothing new to offer (McKay and Piperno 2014, arXiv:1301.1493).
    """

    def __init__(self, spec: PermutationSpec, bits: State) -> None:
        self.spec, self.bits = spec, bits
        self.refinements = 0
        self.seen: dict[bytes, Colours] = {}
        self.automorphisms: list[dict[str, Tensor]] = []

    def settle(self, colours: Colours, others: bool = False) -> Colours:
        """Refine until every unit has a colour of its own (every nested one within its outer unit).

        With `others` this is one of several ways, whose ends are compared.
        """
        colours, tied = self._refined(colours)
        if tied is None:
            if others:
                self._end(colours)
            return colours
        name, units = tied
        best = self.settle(self._apart(colours, name, units[0]), others=True)
        looked_at = [units[0]]
        for unit in units[1:]:
            if self._covered(colours, name, unit, looked_at):
                continue
            # The first leaf of this branch is often an image of one seen before: then the whole branch is.
            self._first_end(self._apart(colours, name, unit))
            if not self._covered(colours, name, unit, looked_at):
                end = self.settle(self._apart(colours, name, unit), others=True)
                best = min(best, end, key=lambda end: _outcome(self.spec, self.bits, end))
            looked_at.append(unit)
        return best

    def _refined(self, colours: Colours) -> tuple[Colours, tuple[str, list[tuple[int, ...]]] | None]:
        """Colours refined, interchangeable units told apart in any order, and the first units still tied."""
        while True:
            self.refinements += 1
            if self.refinements > BUDGET:
                raise TooRegular(
                    f"the units are alike in more ways than {BUDGET:,} refinements tell apart (weights as regular "
                    "as those of an untrained or quantised network); canonicalize it after training, or align it"
                )
            colours = _refine(self.spec, self.bits, colours)
            tied = _tied(self.spec, colours)
            if tied is None or not _interchangeable(self.spec, self.bits, *tied):
                return colours, tied
            # In whatever order they now stand, the bits are the same.
            colours = {**colours, tied[0]: _before(colours[tied[0]], tied[1])}

    def _apart(self, colours: Colours, name: str, unit: tuple[int, ...]) -> Colours:
        return {**colours, name: _before(colours[name], [unit])}

    def _first_end(self, colours: Colours) -> None:
        """Follow the first branch to its leaf and record it."""
        colours, tied = self._refined(colours)
        while tied is not None:
            colours, tied = self._refined(self._apart(colours, tied[0], tied[1][0]))
        self._end(colours)

    def _end(self, colours: Colours) -> None:
        key = sha256(_outcome(self.spec, self.bits, colours)).digest()
        if key not in self.seen:
            self.seen[key] = colours
            return
        ours, theirs = (_flat_order(self.spec, end) for end in (self.seen[key], colours))
        found = {name: torch.empty_like(order) for name, order in ours.items()}
        for name, order in ours.items():
            found[name][order] = theirs[name]
        self.automorphisms.append(found)

    def _covered(
        self, colours: Colours, name: str, unit: tuple[int, ...], looked_at: list[tuple[int, ...]]
    ) -> bool:
        """Whether an automorphism that fixes `colours` maps a unit explored earlier to `unit`."""
        keeping = [
            found[name]
            for found in self.automorphisms
            if all(torch.equal(c.flatten()[found[n]], c.flatten()) for n, c in colours.items())
        ]
        size = self.spec.groups[name].size
        goal = {_flat_unit(size, other) for other in looked_at}
        orbit, waiting = set(), [_flat_unit(size, unit)]
        while waiting:
            here = waiting.pop()
            if here in goal:
                return True
            if here not in orbit:
                orbit.add(here)
                waiting += [int(moved[here]) for moved in keeping]
        return False


def _flat_unit(size: int, unit: tuple[int, ...]) -> int:
    return unit[0] if len(unit) == 1 else unit[0] * size + unit[1]


def _flat_order(spec: PermutationSpec, colours: Colours) -> dict[str, Tensor]:
    """The unit at every position, nested units numbered across all outer units."""
    order = _order(spec, colours)
    return {
        name: p
        if (outer := spec.groups[name].within) is None
        else (order[outer][:, None] * p.shape[1] + p).flatten()
        for name, p in order.items()
    }


def _before(colour: Tensor, units: list[tuple[int, ...]]) -> Tensor:
    """New colours in which `units` are distinct, in the given order, and precede the other units of their
    old colour.
    """
    room = colour * (len(units) + 1)
    for number, unit in enumerate(units):
        room[unit] += number - len(units)
    return room


def _refine(spec: PermutationSpec, bits: State, colours: Colours) -> Colours:
    """Split colours by the tensor entries of their units until the partition is stable."""
    colours, signed = dict(colours), signed_tensors(spec)
    looks = {name: [(t, n) for t in bits for u, n in spec.uses(name) if u == t] for name in spec.groups}
    before = -1
    while (now := sum(len(colour.unique()) for colour in colours.values())) != before:
        before = now
        for name, places_ in looks.items():
            for tensor, axis in places_:
                if len(colours[name].unique()) == colours[name].numel():
                    break
                seen = bits[tensor].abs() if tensor in signed else bits[tensor]
                colours[name] = _look(spec, seen, tensor, axis, name, colours)
    return colours


def _look(
    spec: PermutationSpec, bits: Tensor, tensor: str, number: int, name: str, colours: Colours
) -> Tensor:
    """Refine the colours of group `name` by one axis of one tensor.

    The new colours are ranks of rows: the old colour, the colours of the positions that the unit occupies, sorted, and
    the entries at them, sorted within each colour.
    """
    axes, units = spec.axes[tensor], colours[name].numel()
    own: list[tuple[Tensor, Tensor]] = [(at, of) for _, at, of in places(spec, axes[number], name)]
    positions, of_units = torch.cat([at for at, _ in own]), torch.cat([of for _, of in own])
    # the positions of each unit on the axis
    index = positions[of_units.argsort(stable=True)].reshape(units, -1)
    here, elsewhere = _place_keys(spec, axes, number, colours)
    rows = bits.movedim(number, 0)
    seen, where, numbers = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in index.split(max(1, SORTED // max(1, index.shape[1] * len(elsewhere)))):
        entries, order = rows[part.flatten()].reshape(len(part), -1).sort(dim=1)
        at, order = (here[part][..., None] + elsewhere).flatten(1).gather(1, order).sort(dim=1, stable=True)
        seen.append(entries.gather(1, order))
        where.append(at)
        if len(part) < units:  # of several parts: only distinct rows are kept
            where[-1], which = _distinct_rows(at)
            numbers.append(which)
    first = where[0] if not numbers else _numbered(where, numbers)
    rank = _ranks(torch.cat([colours[name].reshape(-1, 1), first], dim=1), torch.cat(seen))
    return rank.reshape(colours[name].shape)


def _numbered(distinct: list[Tensor], numbers: list[Tensor]) -> Tensor:
    """The index of each row among the distinct rows of all parts, (rows, 1); `numbers` holds the indices within each part."""
    among = _distinct_rows(torch.cat(distinct))[1].split([len(part) for part in distinct])
    return torch.cat([part[own] for part, own in zip(among, numbers, strict=True)])[:, None]


def _place_keys(
    spec: PermutationSpec, axes: tuple[Axis, ...], number: int, colours: Colours
) -> tuple[Tensor, Tensor]:
    """Keys of the positions on axis `number`, and of those on all other axes: their sum is the key of an entry."""
    key, stride = dict[int, Tensor](), 1
    for other, axis in reversed(list(enumerate(axes))):
        found, count = _position_colours(spec, axis, colours)
        key[other], stride = found * stride, stride * count
    elsewhere = torch.zeros(1, dtype=torch.long)
    for other in range(len(axes)):
        if other != number:
            elsewhere = (elsewhere[:, None] + key[other]).flatten()
    return key[number], elsewhere


def _distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows, sorted, and the index of each row among them."""
    if (rows == rows[:1]).all():  # as most often: then they need not be sorted
        return rows[:1], torch.zeros(len(rows), dtype=torch.long)
    distinct, which = rows.unique(dim=0, return_inverse=True)
    return distinct, which


def _ranks(first: Tensor, rest: Tensor) -> Tensor:
    """The rank of each row of `first` and `rest` together, equal for equal rows; stops at the column that tells all apart."""
    if rest.numel() <= FEW:
        return _distinct_rows(torch.cat([first, rest], dim=1))[1]
    rank, begin, width = _distinct_rows(first)[1], 0, 1
    while begin < rest.shape[1] and int(rank.max()) + 1 < len(rank):
        rank = _distinct_rows(torch.cat([rank[:, None], rest[:, begin : begin + width]], dim=1))[1]
        begin, width = begin + width, 8 * width
    return rank


def _position_colours(spec: PermutationSpec, axis: Axis, colours: Colours) -> tuple[Tensor, int]:
    """A rank for every position of an axis, equal where only units of one colour tell them apart."""
    width = 1 + max(len(segment) for segment in axis.segments)
    rows = []
    for number, segment in enumerate(axis.segments):
        sizes = tuple(factor.size for factor in segment)
        index = torch.unravel_index(torch.arange(prod(sizes)), sizes)
        columns = [torch.full_like(index[0], number)]
        at = {factor.group: place for factor, place in zip(segment, index, strict=True)}
        for factor, place in zip(segment, index, strict=True):
            if factor.group is None:
                columns.append(place)
            else:
                outer = spec.groups[factor.group].within
                colour = colours[factor.group]
                columns.append(colour[place] if outer is None else colour[at[outer], place])
        columns += [torch.zeros_like(index[0])] * (width - len(columns))
        rows.append(torch.stack(columns, dim=1))
    ranks, key = torch.cat(rows).unique(dim=0, return_inverse=True)
    return key, len(ranks)


def _tied(spec: PermutationSpec, colours: Colours) -> tuple[str, list[tuple[int, ...]]] | None:
    """The first units that share a colour, outer groups before nested ones, or None."""
    for name in sorted(spec.groups, key=lambda name: spec.groups[name].within is not None):
        outer, colour = spec.groups[name].within, colours[name]
        heads = [()] if outer is None else [(h,) for h in colours[outer].argsort().tolist()]
        for head in heads:
            values, counts = colour[head].unique(return_counts=True)
            if (counts > 1).any():
                units = (colour[head] == values[counts > 1][0]).nonzero().flatten()
                return name, [(*head, unit) for unit in units.tolist()]
    return None


def _interchangeable(spec: PermutationSpec, bits: State, name: str, units: list[tuple[int, ...]]) -> bool:
    """Whether swapping any two of these units (or one with the other's negative) leaves every tensor
    unchanged.
    """
    return all(_exchangeable(spec, bits, name, units[0], other) for other in units[1:])


def _exchangeable(
    spec: PermutationSpec, bits: State, name: str, one: tuple[int, ...], other: tuple[int, ...]
) -> bool:
    swap = perm.identity(spec)
    swap[name][one], swap[name][other] = other[-1], one[-1]
    touched = {tensor for tensor, _ in spec.uses(name)}
    if all(torch.equal(perm.relabel(spec, swap, t, own := bits[t], 0), own) for t in touched):
        return True
    if name not in sign_groups(spec):
        return False
    negative = torch.ones(spec.shape(name), dtype=torch.float64)
    negative[one] = negative[other] = -1

    def exchanged(tensor: str) -> Tensor:
        return _negated(spec, {name: negative}, tensor, perm.relabel(spec, swap, tensor, bits[tensor], 0))

    return all(torch.equal(exchanged(tensor), bits[tensor]) for tensor in touched)


def _negated(spec: PermutationSpec, signs: Mapping[str, Tensor], name: str, bits: Tensor) -> Tensor:
    """The bits of the tensor `name` with the units of sign -1 negated."""
    return bits * multiplier(spec, spec.axes[name], signs).to(bits.dtype)


def _order(spec: PermutationSpec, colours: Colours) -> dict[str, Tensor]:
    plain = {name: colour.argsort(dim=-1, stable=True) for name, colour in colours.items()}
    return {
        name: p if (outer := spec.groups[name].within) is None else p[plain[outer]]
        for name, p in plain.items()
    }


def _outcome(spec: PermutationSpec, bits: State, colours: Colours) -> bytes:
    """The bits in the order and with the signs that the colours give, as bytes that sort as the numbers do."""
    order = _order(spec, colours)
    ordered = LazyState(bits, lambda name: perm.relabel(spec, order, name, bits[name], 0))
    signs = fix_signs(spec, ordered)
    return b"".join(_comparable_bytes(_negated(spec, signs, name, ordered[name])) for name in ordered)


def _comparable_bytes(bits: Tensor) -> bytes:
    unsigned = (bits ^ torch.iinfo(bits.dtype).min).numpy()
    return unsigned.astype(unsigned.dtype.newbyteorder(">")).tobytes()
