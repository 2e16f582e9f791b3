r"""Groups of interchangeable units, and how each tensor axis moves when they are relabelled.

A network's function does not change when the units of a hidden layer are listed in another order,
provided that every tensor that mentions them is reordered alike. A `Group` is a set of such units.
An `Axis` says how one tensor axis is made of units: a concatenation of segments, each a row-major
product of factors.

    plain axis                 [(units)]
    conv -> flatten -> linear  [(channels) x 49]
    fused q, k, v of H heads   [(heads) x (qk) | (heads) x (qk) | (heads) x (vo)]

A group `within` another has one independent relabelling for every unit of the outer group: the
channels of head 3 may be reordered without touching those of head 5, and follow their head when the
heads move. An element of such a group is an array (outer size, size). The outer group stands before it in the
segment, or is the whole of another axis of the tensor, as experts are in a tensor (experts, units, inputs); such
tensors are read as though both lay on one axis (`canon.actions.joined_axes`).

Positive-scale and sign symmetry live on the same units: a unit's scale `s` multiplies the entries of
a factor by `s ** power`, so incoming weights have power 1 and outgoing weights power -1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal

from torch import Tensor

from canon.errors import InputError
from canon.validation import (
    Check,
    Invalid,
    either,
    integer,
    items,
    one_of,
    optional,
    parse_json,
    record,
    shown,
    table,
    text,
)

Scale = Literal["none", "sign", "positive"]


@dataclass(frozen=True)
class Group:
    """Interchangeable units.

    Args:
        name: its name in axes, permutations and scales.
        size: how many units.
        within: another group; there is one permutation for each of its units, as within attention heads.
        scale: the scales that keep the function: "none", "sign" or "positive".

    Example:
        >>> import canon
        >>> canon.Group("hidden", 8, scale="positive").size
        8
    """

    name: str
    size: int
    within: str | None = None
    scale: Scale = "none"


@dataclass(frozen=True)
class Factor:
    """Consecutive positions of an axis: the units of a group, or fixed.

    Args:
        size: how many positions.
        group: the group that moves them; None where they are fixed.
        power: the power of a unit's scale that its entries take.

    Example:
        >>> import canon
        >>> canon.Factor(8, "hidden", power=1).size
        8
    """

    size: int
    group: str | None = None
    power: int = 0


@dataclass(frozen=True)
class Axis:
    """A tensor axis: segments laid end to end, each a row-major product of factors.

    Args:
        segments: for each segment, its factors, the slowest first.

    Example:
        >>> import canon
        >>> canon.Axis.units("hidden", 8).size
        8
    """

    segments: tuple[tuple[Factor, ...], ...]

    @classmethod
    def fixed(cls, size: int) -> Axis:
        return cls(((Factor(size),),))

    @classmethod
    def units(cls, group: str, size: int, block: int = 1, power: int = 0) -> Axis:
        """Each unit owns `block` consecutive positions."""
        tail = (Factor(block),) if block > 1 else ()
        return cls(((Factor(size, group, power), *tail),))

    @cached_property
    def size(self) -> int:
        return sum(prod(factor.size for factor in segment) for segment in self.segments)

    @cached_property
    def groups(self) -> frozenset[str]:
        return frozenset(f.group for segment in self.segments for f in segment if f.group is not None)


@dataclass(frozen=True)
class PermutationSpec:
    """The permutation symmetries of one architecture.

    Args:
        groups: the groups of interchangeable units, by name.
        axes: for each tensor of the `state_dict`, one `Axis` for each of its axes, fixed axes included.
        statistics: tensors that move but do not identify units (running statistics, counters): they are permuted
            and never enter a matching objective.
        frozen: what could not move, and why.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> [group.size for group in spec.groups.values()]
        [8]
    """

    groups: dict[str, Group]
    axes: dict[str, tuple[Axis, ...]]
    statistics: frozenset[str] = frozenset()
    frozen: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.groups.values():
            if group.within is not None and group.within not in self.groups:
                raise InputError(f"group '{group.name}' lies within '{group.within}', which does not exist")
        for tensor, axes in self.axes.items():
            for number, axis in enumerate(axes):
                beside = {_whole(other) for n, other in enumerate(axes) if n != number}
                self._check_axis(f"{tensor} axis {number}", axis, beside)
            if sum(outer is not None for outer in self._outer_axes(axes)) > 1:
                raise InputError(
                    f"{tensor} has two axes with units within those of another axis; expected one"
                )

    def _check_axis(self, where: str, axis: Axis, beside: set[str | None]) -> None:
        for segment in axis.segments:
            seen: set[str] = set()
            for factor in segment:
                if factor.group is None:
                    continue
                group = self.groups.get(factor.group)
                if group is None:
                    raise InputError(f"{where} names group '{factor.group}', which does not exist")
                if group.size != factor.size:
                    raise InputError(
                        f"group '{group.name}': {where} gives {factor.size} units, the group has {group.size}"
                    )
                if group.within is not None and group.within not in seen | beside:
                    raise InputError(
                        f"group '{group.name}': {where} must name its outer group '{group.within}' before it"
                    )
                seen.add(factor.group)

    def _outer_axes(self, axes: tuple[Axis, ...]) -> list[int | None]:
        """For each axis the other one that holds the units within which some of its own lie."""
        found: list[int | None] = []
        for axis in axes:
            apart = {
                self.groups[str(factor.group)].within
                for segment in axis.segments
                for n, factor in enumerate(segment)
                if factor.group is not None
                and self.groups[factor.group].within not in {None, *(f.group for f in segment[:n])}
            }
            found.append(next((n for n, other in enumerate(axes) if _whole(other) in apart - {None}), None))
        return found

    @cached_property
    def joins(self) -> dict[str, tuple[int, int]]:
        """Tensors with units within those of another axis: the axis of the outer units, and that of the inner ones."""
        return {
            tensor: (outer, inner)
            for tensor, axes in self.axes.items()
            if any(self.groups[g].within is not None for axis in axes for g in axis.groups)
            for inner, outer in enumerate(self._outer_axes(axes))
            if outer is not None
        }

    def shape(self, group: str) -> tuple[int, ...]:
        """Shape of an element of `group`: (size,) or (outer size, size)."""
        own = self.groups[group]
        return (own.size,) if own.within is None else (self.groups[own.within].size, own.size)

    def uses(self, group: str) -> Iterator[tuple[str, int]]:
        """Every (tensor, axis number) on which `group` acts."""
        for tensor, axes in self.axes.items():
            for number, axis in enumerate(axes):
                if group in axis.groups:
                    yield tensor, number

    def check(self, state: Mapping[str, Tensor], *, batch: int = 0) -> None:
        """Raise `InputError` unless keys and shapes fit; `batch` leading axes are ignored."""
        missing, extra = self.axes.keys() - state.keys(), state.keys() - self.axes.keys()
        if missing or extra:
            raise InputError(
                f"the tensors do not fit the spec: missing {sorted(missing)[:10]}, not known {sorted(extra)[:10]}"
            )
        for name, axes in self.axes.items():
            found, expected = tuple(state[name].shape[batch:]), tuple(axis.size for axis in axes)
            if found != expected:
                raise InputError(f"{name} has shape {found}, the spec expects {expected}")

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": "canon-spec-1",
                "groups": [
                    {"name": g.name, "size": g.size, "within": g.within, "scale": g.scale}
                    for g in self.groups.values()
                ],
                "axes": {
                    name: [
                        [[[f.size, f.group, f.power] for f in seg] for seg in axis.segments] for axis in axes
                    ]
                    for name, axes in self.axes.items()
                },
                "statistics": sorted(self.statistics),
                "frozen": self.frozen,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> PermutationSpec:
        try:
            return cls._from_dict(_SPEC(parse_json(text)))
        except Invalid as error:
            raise InputError(
                f"not a spec that canon wrote: {error}; write one with `canon inspect --save-spec`"
            ) from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> PermutationSpec:
        return cls(
            groups=_groups(data["groups"]),
            axes={
                name: tuple(Axis(tuple(tuple(Factor(*f) for f in seg) for seg in axis)) for axis in axes)
                for name, axes in data["axes"].items()
            },
            statistics=frozenset(data["statistics"]),
            frozen=dict(data["frozen"]),
        )


def _whole(axis: Axis) -> str | None:
    """The group that is all of an axis, or None."""
    return axis.segments[0][0].group if len(axis.segments) == 1 and len(axis.segments[0]) == 1 else None


def _factor(value: Any) -> list[Any]:
    kinds: tuple[Check, ...] = (_SIZE, optional(_NAME), integer(-64, 64))
    found = items(either(integer(), optional(_NAME)), 3)(value)
    if len(found) != 3:
        raise Invalid(f"expected [size, group, power], found {len(found)} entries")
    return [check(one) for check, one in zip(kinds, found, strict=True)]


def _groups(entries: list[dict[str, Any]]) -> dict[str, Group]:
    found: dict[str, Group] = {}
    for entry in entries:
        if entry["name"] in found:
            raise InputError(f"the group '{shown(entry['name'])}' occurs twice; write a spec with each once")
        found[entry["name"]] = Group(**entry)
    return found


_SIZE, _NAME = integer(0, 2**40), text(limit=2000)
_SPEC = record(
    {
        "format": one_of("canon-spec-1"),
        "groups": items(
            record(
                {"name": _NAME, "size": _SIZE},
                {"within": optional(_NAME), "scale": one_of("none", "sign", "positive")},
            )
        ),
        "axes": table(_NAME, items(items(items(_factor, 64), 10_000), 64)),
        "statistics": items(_NAME),
        "frozen": table(_NAME, text(limit=10_000)),
    }
)
