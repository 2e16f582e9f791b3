r"""Solve the scale equations of the operations for each group's scale symmetry.

A unit scaled by s has entries multiplied by s^d wherever it is mentioned. Every operation is linear
in these degrees: a product adds them, a sum wants them equal, a contraction wants them to cancel, an
activation that bears no scale wants zero. A group has a scale symmetry where the equations leave
exactly one way (up to a factor); with more the choice would be arbitrary, and none is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from canon.spec import Scale
from canon.tracing.axis_unification import AxisUnification, Degree

Row = dict[Degree, Fraction]


class ScaleEquations:
    """Equations sorted by the unit that they speak of, every unit refined as far as it went."""

    def __init__(self, units: AxisUnification) -> None:
        self._rows: dict[int, list[Row]] = {}
        self._positive: dict[int, set[Degree]] = {}
        self._odd: dict[int, set[Degree]] = {}
        for unit, terms in units.equations:
            columns = [_flat(units, unit, degree) for _, degree in terms]
            for legs in zip(*columns, strict=True):
                row: Row = {}
                for (weight, _), (_, degree) in zip(terms, legs, strict=True):
                    row[degree] = row.get(degree, Fraction(0)) + Fraction(weight)
                self._rows.setdefault(units.find(legs[0][0]), []).append(row)
        for marks, kept in ((units.positive, self._positive), (units.odd, self._odd)):
            for unit, degree in marks:
                for child, leaf in _flat(units, unit, degree):
                    kept.setdefault(units.find(child), set()).add(leaf)

    def solve(self, unit: int, mentions: Iterable[Degree]) -> tuple[Scale, dict[Degree, int]]:
        """The kind of scale, and its power at each mention in a parameter (the first has power 1)."""
        mentions = list(dict.fromkeys(mentions))
        rows = self._rows.get(unit, [])
        positive, odd = self._positive.get(unit, set()), self._odd.get(unit, set())
        kinds: tuple[tuple[Scale, set[Degree]], ...] = (("positive", odd), ("sign", positive))
        for kind, still in kinds:
            ways, powers = _kernel([*rows, *({degree: Fraction(1)} for degree in still)], mentions)
            if ways:
                return (kind, powers) if powers else ("none", {})
        return "none", {}


def _flat(units: AxisUnification, unit: int, degree: Degree) -> list[tuple[int, Degree]]:
    return [leg for segment in units.leaves(unit, degree) for leg in segment]


def _kernel(rows: Iterable[Row], mentions: list[Degree]) -> tuple[int, dict[Degree, int]]:
    """How many independent solutions there are, and the solution where it is one in powers of -1, 0, 1."""
    solved: dict[Degree, Row] = {}  # a variable as a sum of free ones
    for row in rows:
        reduced: Row = {}
        for degree, weight in row.items():
            for free, share in solved.get(degree, {degree: Fraction(1)}).items():
                reduced[free] = reduced.get(free, Fraction(0)) + weight * share
        reduced = {free: weight for free, weight in reduced.items() if weight}
        if not reduced:
            continue
        pivot, lead = next(iter(reduced.items()))
        rest = {free: -weight / lead for free, weight in reduced.items() if free != pivot}
        for degree, known in solved.items():
            if pivot in known:
                share = known.pop(pivot)
                for free, weight in rest.items():
                    known[free] = known.get(free, Fraction(0)) + share * weight
                solved[degree] = {free: weight for free, weight in known.items() if weight}
        solved[pivot] = rest
    found = {degree: solved.get(degree, {degree: Fraction(1)}) for degree in mentions}
    roots = {root for row in found.values() for root in row}
    if len(roots) != 1:
        return len(roots), {}
    (root,) = roots
    powers = {degree: row.get(root, Fraction(0)) for degree, row in found.items()}
    first = next(power for power in powers.values() if power)
    powers = {degree: power / first for degree, power in powers.items()}
    if any(power not in (-1, 0, 1) for power in powers.values()):
        return 1, {}
    return 1, {degree: int(power) for degree, power in powers.items()}
