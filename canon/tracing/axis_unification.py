r"""Axis structure with unknowns: which positions of which axes are the same interchangeable units.

An axis is a concatenation of segments, each a row-major product of units. Every axis of every tensor
starts as one unknown unit; each operation of the network identifies some (`unify`), finds that one is
a product (`split`) or a concatenation (`cut`) of smaller ones, or that it cannot move (`freeze`). This
is first-order unification, with union-find for equality and `parts` for refinement.

Every mention of a unit carries a degree: the power of the unit's scale that the entries carry there.
Operations add linear equations between degrees; `canon.tracing.scale_inference` solves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

Degree = tuple[int, ...]  # a variable; children of a refined unit append their number
Leg = tuple[int, Degree]
Segment = tuple[Leg, ...]
Structure = tuple[Segment, ...]

ONE: Structure = ((),)
"""An axis of size one."""

NONE: Structure = ()
"""An axis of size zero."""

_REPEATED = "it is repeated, and is a concatenation of different units"


class AxisUnification:
    """The store of units, their sizes, equalities, refinements, and what is known of their degrees."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parent: list[int] = []
        self.parts: dict[int, tuple[tuple[int, ...], ...]] = {}
        self.reason: dict[int, str] = {}
        self.apart: set[tuple[int, int]] = set()  # (inner, outer) that must not nest
        self.batched: list[Structure] = []  # axes along which a product is taken entry by entry
        self.carried: list[
            tuple[tuple[Structure, ...], Structure]
        ] = []  # rows, and the axis from which each has one
        self.equations: list[tuple[int, tuple[tuple[float, Degree], ...]]] = []
        self.positive: list[Leg] = []  # degrees that survive a positive scale only
        self.odd: list[Leg] = []  # degrees that survive a sign only
        self._variables = 0

    # making

    def unit(self, size: int, reason: str | None = None) -> int:
        number = len(self.sizes)
        self.sizes.append(size)
        self.parent.append(number)
        if reason is not None:
            self.reason[number] = reason
        return number

    def degree(self) -> Degree:
        self._variables += 1
        return (self._variables,)

    def free(self, size: int) -> Structure:
        """A new axis about which nothing is known."""
        return self._axis(size, None)

    def fixed(self, size: int, reason: str) -> Structure:
        """A new axis whose positions stay."""
        return self._axis(size, reason)

    def _axis(self, size: int, reason: str | None) -> Structure:
        return (NONE, ONE)[size] if size < 2 else (((self.unit(size, reason), self.degree()),),)

    # reading

    def find(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def frozen(self, unit: int) -> str | None:
        return self.reason.get(self.find(unit))

    def length(self, segment: Segment) -> int:
        return prod(self.sizes[unit] for unit, _ in segment)

    def size(self, axis: Structure) -> int:
        return sum(self.length(segment) for segment in axis)

    def leaves(self, unit: int, degree: Degree) -> Structure:
        """A mention of a unit, refined as far as is known."""
        unit = self.find(unit)
        if unit not in self.parts:
            return (((unit, degree),),)
        number, segments = 0, []
        for part in self.parts[unit]:
            legs = []
            for child in part:
                legs.append((child, (*degree, number)))
                number += 1
            segments.append(tuple(legs))
        return self.expand(tuple(segments))

    def expand(self, axis: Structure) -> Structure:
        """The axis with every refined unit replaced by its parts."""
        return tuple(segment for given in axis for segment in self._expand_segment(given))

    def _expand_segment(self, given: Segment) -> list[Segment]:
        done: list[Segment] = [()]
        for leg in given:
            inner = self.leaves(*leg)
            if len(inner) == 1:
                done = [segment + inner[0] for segment in done]
                continue
            # A product over a concatenation is not a concatenation of products unless the outer positions
            # stay where they are; where they move, what is concatenated stays.
            if self.moving(tuple(done)):
                self._close(leg[0], _REPEATED)
                done = [(*segment, leg) for segment in done]
            else:
                done = [part for outer in done for part in inner * self.length(outer)]
        return done

    def moving(self, axis: Structure) -> list[Leg]:
        return [
            leg for segment in self.expand(axis) for leg in segment if self.find(leg[0]) not in self.reason
        ]

    # decisions

    def freeze(self, unit: int, reason: str) -> None:
        unit = self.find(unit)
        if unit in self.parts:
            for child in (child for part in self.parts[unit] for child in part):
                self.freeze(child, reason)
        else:
            self.reason.setdefault(unit, reason)

    def _close(self, unit: int, reason: str) -> None:
        """Freeze a unit and undo its refinement."""
        self.freeze(unit, reason)
        unit = self.find(unit)
        parts = self.parts.pop(unit)
        self.reason[unit] = next((r for part in parts for u in part if (r := self.frozen(u))), reason)

    def freeze_axis(self, axis: Structure, reason: str) -> None:
        for segment in axis:
            for unit, _ in segment:
                self.freeze(unit, reason)

    def _refine(self, unit: int, parts: Iterable[Iterable[int]]) -> None:
        unit = self.find(unit)
        reason = self.reason.pop(unit, None)
        self.parts[unit] = tuple(tuple(part) for part in parts)
        if reason is not None:
            self.freeze(unit, reason)

    def _children(self, *sizes: int) -> tuple[int, ...]:
        return tuple(self.unit(size) for size in sizes if size > 1)

    def unify(self, a: Structure, b: Structure, reason: str) -> None:
        """The two axes list the same units in the same order."""
        while True:
            a, b = self.expand(a), self.expand(b)
            if self._bind(a, b) or self._bind(b, a):
                return
            ends_a, ends_b = self._ends(a), self._ends(b)
            if ends_a == ends_b:
                break
            for end in ends_b - ends_a:
                a = self._cut(a, end, reason)
            for end in ends_a - ends_b:
                b = self._cut(b, end, reason)
        for left, right in zip(a, b, strict=True):
            self._unify_segment(left, right, reason)

    def _bind(self, a: Structure, b: Structure) -> bool:
        """If `a` is a single unknown unit, bind it to `b`."""
        if len(a) != 1 or len(a[0]) != 1 or (len(b) == 1 and len(b[0]) == 1):
            return False
        self._refine(a[0][0][0], [[unit for unit, _ in segment] for segment in b])
        return True

    def _ends(self, axis: Structure) -> set[int]:
        ends, end = set(), 0
        for segment in axis:
            end += self.length(segment)
            ends.add(end)
        return ends

    def _cut(self, axis: Structure, at: int, reason: str) -> Structure:
        """Refine until a segment ends at position `at`."""
        while at not in self._ends(axis := self.expand(axis)) and at:
            start = 0
            for segment in axis:
                if start + self.length(segment) > at:
                    break
                start += self.length(segment)
            head, inner = segment[0][0], self.length(segment[1:])
            place, rest = divmod(at - start, inner)
            if rest:
                self.freeze(head, reason)
                sizes = [place, 1, self.sizes[head] - place - 1]
            else:
                sizes = [place, self.sizes[head] - place]
            self._refine(head, [self._children(size) for size in sizes if size])
        return axis

    def _unify_segment(self, a: Segment, b: Segment, reason: str) -> None:
        left, right = list(a), list(b)
        while left and right:
            u, v = self.find(left[0][0]), self.find(right[0][0])
            if u in self.parts or v in self.parts:
                grown = [self.expand((tuple(side),)) for side in (left, right)]
                if any(len(side) > 1 for side in grown):
                    return self.unify(grown[0], grown[1], reason)
                left, right = list(grown[0][0]), list(grown[1][0])
            elif self.sizes[u] == self.sizes[v]:
                self._merge(u, v)
                left.pop(0), right.pop(0)
            else:
                large, small = (u, v) if self.sizes[u] > self.sizes[v] else (v, u)
                factor, rest = divmod(self.sizes[large], self.sizes[small])
                if rest:
                    self.freeze_axis((tuple(left), tuple(right)), reason)
                    return
                self._refine(large, [self._children(self.sizes[small], factor)])

    def _merge(self, a: int, b: int) -> None:
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        reason = self.reason.pop(high, None)
        self.parent[high] = low
        if reason is not None:
            self.reason.setdefault(low, reason)

    # reshaping

    def slice(self, axis: Structure, start: int, stop: int, reason: str) -> Structure:
        """Positions start to stop."""
        if stop <= start:
            return ()
        axis = self._cut(self._cut(axis, start, reason), stop, reason)
        kept, place = [], 0
        for segment in axis:
            if start <= place < stop:
                kept.append(segment)
            place += self.length(segment)
        return tuple(kept)

    def product(self, axes: Sequence[Structure]) -> Structure:
        """Axes laid out row-major as one."""
        merged: Structure = ONE
        for axis in axes:
            axis, merged = self.expand(axis), self.expand(merged)
            if len(axis) > 1 and self.moving(merged):
                self.freeze_axis(axis, _REPEATED)
                axis = self.fixed(self.size(axis), _REPEATED)
            if len(axis) == 1:
                merged = tuple(segment + axis[0] for segment in merged)
            else:
                merged = tuple(part for segment in merged for part in axis * self.length(segment))
        return merged

    def split(self, axis: Structure, sizes: Sequence[int], reason: str) -> list[Structure]:
        """One axis read as several, row-major."""
        axis = self.expand(axis)
        if len(axis) == 1:
            return self._split_segment(axis[0], sizes, reason)
        inner = prod(sizes[1:])
        outer: list[Segment] = []
        tails: list[list[Structure]] = []
        for block in self._blocks(axis, inner, reason):
            if len(block) == 1:
                rows = self.length(block[0]) // inner
                head, *tail = self._split_segment(block[0], (rows, *sizes[1:]), reason)
            else:
                head, tail = ONE, self.split(block, sizes[1:], reason)
            outer += head
            tails.append(tail)
        for tail in tails[1:]:
            for first, other in zip(tails[0], tail, strict=True):
                self.unify(first, other, reason)
                self.equate(first, other)
        return [tuple(outer), *tails[0]]

    def _blocks(self, axis: Structure, inner: int, reason: str) -> list[Structure]:
        """Segments of whole rows of `inner` positions; where one is not, its rows one by one."""
        if any(self.length(segment) % inner for segment in axis):
            for place in range(inner, self.size(axis), inner):
                axis = self._cut(axis, place, reason)
        blocks: list[Structure] = []
        row: Structure = ()
        for segment in axis:
            row += (segment,)
            if self.size(row) % inner == 0:
                blocks.append(row)
                row = ()
        return blocks

    def _split_segment(self, segment: Segment, sizes: Sequence[int], reason: str) -> list[Structure]:
        legs = list(segment)
        axes: list[Structure] = []
        for size in sizes:
            taken: list[Leg] = []
            while (missing := size // self.length(tuple(taken))) > 1:
                unit = self.find(legs[0][0])
                if unit in self.parts:
                    grown = self.expand((tuple(legs),))
                    if len(grown) > 1:
                        return self.split(self.expand((segment,)), sizes, reason)
                    legs = list(grown[0])
                elif missing % self.sizes[unit] == 0:
                    taken.append(legs.pop(0))
                elif self.sizes[unit] % missing == 0:
                    self._refine(unit, [self._children(missing, self.sizes[unit] // missing)])
                else:
                    self.freeze_axis((segment,), reason)
                    return [self.fixed(s, reason) for s in sizes]
            axes.append((tuple(taken),))
        return axes

    # degrees

    def equate(self, a: Structure, b: Structure) -> None:
        """Mentions of the same units carry the same power of their scale."""
        for (unit, one), (_, other) in self.pairs(a, b):
            self.equations.append((unit, ((1, one), (-1, other))))

    def pairs(self, a: Structure, b: Structure) -> list[tuple[Leg, Leg]]:
        """Moving legs of two unified axes, side by side."""
        a, b = self.expand(a), self.expand(b)
        return list(zip(self.moving(a), self.moving(b), strict=True))

    def still(self, axis: Structure) -> None:
        """The operation does not commute with scaling on this axis."""
        for unit, degree in self.moving(axis):
            self.equations.append((unit, ((1, degree),)))

    def relate(self, axis: Structure, terms: Sequence[tuple[float, Structure]]) -> Structure:
        """A copy of `axis` whose degrees are the weighted sum of those of the unified `terms`."""
        copy = tuple(tuple((unit, self.degree()) for unit, _ in segment) for segment in self.expand(axis))
        columns = [self.moving(column) for column in [self.expand(c) for c in (copy, *(t for _, t in terms))]]
        for legs in zip(*columns, strict=True):
            weights = (-1.0, *(weight for weight, _ in terms))
            parts = tuple((w, degree) for w, (_, degree) in zip(weights, legs, strict=True))
            self.equations.append((legs[0][0], parts))
        return copy
