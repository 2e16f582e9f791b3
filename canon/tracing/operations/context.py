"""The context of a handler: traced tensors, the units, and the table of handlers by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import ONE, AxisUnification, Structure


@dataclass(eq=False)
class Split:
    """A view of one axis as several, not yet carried out: q, k, v are distinguished by later operations."""

    source: Structure
    sizes: tuple[int, ...]
    axes: list[Structure] | None = None


@dataclass(eq=False)
class Layers(Split):
    """States of several layers over one another: each lists its own units, until all are read as one tensor.

    Part 0 is the axis of layers, part 1 that of units.
    """

    layers: tuple[Structure, ...] = ()

    @classmethod
    def of(cls, layers: Sequence[Structure]) -> Layers:
        return cls(sum(layers, ()), (len(layers),), None, tuple(layers))


@dataclass(frozen=True)
class Part:
    """Axis `number` of a split."""

    split: Split
    number: int


Dim = Structure | Part


@dataclass(eq=False)
class IndexedAxis:
    """An axis whose places are named by number, as a router names experts.

    `read` where something reads the numbers, `put_out` where that is the user, `used` where entries are looked up by
    them. `beside` are numbers of the same
    axis that became one tensor with these.
    """

    axis: Structure
    reason: str
    used: bool = False
    read: bool = False
    put_out: bool = False
    beside: list[IndexedAxis] = field(default_factory=list)

    def use(self) -> None:
        """Record that entries are looked up by these indices."""
        for one in (self, *self.beside):
            one.used = True


@dataclass
class Traced:
    """A tensor of the network with the structure of its axes."""

    value: Tensor
    dims: list[Dim]
    learned: bool = True
    """Whether a parameter has entered it."""
    zeros: bool = field(default=False)
    numbers: IndexedAxis | None = None
    """Of which axis its entries are place numbers, or were made from these."""
    direct: bool = False
    """Whether they are these numbers themselves."""


class Context:
    """The units, and the operation being read."""

    def __init__(self, checked: bool = False) -> None:
        self.units = AxisUnification()
        self.checked = checked  # whether candidate symmetries are verified numerically afterwards
        self.numbers: list[IndexedAxis] = []
        self.name = ""
        self.where = ""
        self.statistics: set[int] = set()
        self.seen: list[list[Dim]] = []
        self.read: list[Dim] = []
        self.learned = True

    def because(self, text: str) -> str:
        return f"{text} ({self.where})"

    def axis(self, dim: Dim) -> Structure:
        if not isinstance(dim, Part):
            return dim
        split = dim.split
        if split.axes is None and isinstance(split, Layers):
            for other in split.layers[1:]:
                self.units.unify(split.layers[0], other, self.because("layers are read as one"))
                self.units.equate(split.layers[0], other)
            split.axes = [self.fixed([len(split.layers)], "layers over one another")[0], split.layers[0]]
        if split.axes is None:
            split.axes = self.units.split(
                split.source, split.sizes, self.because("the view does not divide it")
            )
        return split.axes[dim.number]

    def mention(self, dim: Dim) -> Structure:
        """The axis as far as it was needed: a view that nothing used is not carried out."""
        if isinstance(dim, Part):
            return dim.split.source if dim.split.axes is None else dim.split.axes[dim.number]
        return dim

    def axes(self, traced: Traced) -> list[Structure]:
        return [self.axis(dim) for dim in traced.dims]

    def freeze(self, traced: Traced, text: str) -> None:
        for axis in self.axes(traced):
            self.units.freeze_axis(axis, self.because(text))

    def still(self, axes: Sequence[Structure]) -> None:
        for axis in axes:
            self.units.still(axis)

    def fixed(self, shape: Sequence[int], text: str) -> list[Structure]:
        return [self.units.fixed(size, self.because(text)) for size in shape]

    def mix(self, axes: Sequence[Structure], over: Sequence[int]) -> None:
        """The axes `over` are mixed with one another and kept: nothing else may nest within them."""
        for number, axis in enumerate(axes):
            if number in over:
                continue
            for inner, _ in self.units.moving(axis):
                for outer in over:
                    self.units.apart |= {(inner, unit) for unit, _ in self.units.moving(axes[outer])}

    def carry(self, rows: Sequence[Structure], chosen: Structure) -> None:
        """Each place of the axes `rows` has an entry of the axis `chosen` of its own, as tokens have an expert."""
        self.units.batched.append(chosen)
        self.units.carried.append((tuple(rows), chosen))

    def look_up(self, index: Traced, axis: Structure) -> bool:
        """Entries of `axis` are looked up by number: numbers of this axis that a router gave move with it.

        False, and the axis frozen, where they are other numbers.
        """
        if index.numbers is None or not index.direct:
            self.units.freeze_axis(axis, self.because("it is indexed by number"))
            return False
        self.units.unify(index.numbers.axis, axis, self.because("sizes do not match"))
        index.numbers.use()
        return True

    def broadcast(self, operands: Sequence[list[Structure]]) -> tuple[list[Structure], list[list[int]]]:
        """Unify axes from the right; returns the axes, and for each which operands have it."""
        rank = max(len(axes) for axes in operands)
        result: list[Structure] = []
        owners: list[list[int]] = []
        for place in range(-rank, 0):
            having = [
                n
                for n, axes in enumerate(operands)
                if len(axes) >= -place and self.units.size(axes[place]) != 1
            ]
            for other in having[1:]:
                self.units.unify(
                    operands[having[0]][place], operands[other][place], self.because("sizes do not match")
                )
            result.append(operands[having[0]][place] if having else ONE)
            owners.append(having)
        return result, owners

    def contract(
        self, operands: Sequence[list[Structure]], labels: Sequence[Sequence[Any]], out: Sequence[Any]
    ) -> list[Structure]:
        """Sum of products over every label that `out` does not name (as einsum)."""
        mentions: dict[Any, list[Structure]] = {}
        for axes, names in zip(operands, labels, strict=True):
            for axis, name in zip(axes, names, strict=True):
                if self.units.size(axis) != 1:
                    mentions.setdefault(name, []).append(axis)
        kept: dict[Any, Structure] = {}
        shared = sum(len(axes) > 1 for axes in mentions.values())
        for name, axes in mentions.items():
            for other in axes[1:]:
                self.units.unify(axes[0], other, self.because("sizes do not match"))
            kept[name] = axes[0] if len(axes) == 1 else self.units.relate(axes[0], [(1.0, a) for a in axes])
            if name not in out:
                self.units.still(kept[name])
            if len(axes) > 1 and (name in out or shared > 1):
                self.units.batched.append(kept[name])
        return [kept.get(name, ONE) for name in out]


_MOVES = (
    "slice select split split_with_sizes chunk unbind narrow view reshape _unsafe_view flatten unflatten permute "
    "transpose t squeeze unsqueeze clone contiguous alias detach _to_copy to expand"
)
MOVES = frozenset(_MOVES.split())
"""Operations that only hand entries on: what they are given is not yet read."""

Handler = Callable[[Context, SimpleNamespace, Any], list[Dim]]
HANDLERS: dict[str, Callable[[Context, SimpleNamespace, Any], Any]] = {}


def handles(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


def marked(c: Context, axes: list[Structure], kind: list[Any]) -> list[Structure]:
    for axis in axes:
        kind += c.units.moving(axis)
    return axes


def places(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(rank))
    return [d % rank if rank else 0 for d in (dims if isinstance(dims, list | tuple) else [dims])]


def copies(c: Context, size: int) -> Structure:
    """A new axis of identical entries, whose units may be permuted freely."""
    axis = c.units.free(size)
    c.units.still(axis)
    return axis


def unknown(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """An unknown operation: freeze every axis that it touches."""
    for argument in vars(a).values():
        for x in argument if isinstance(argument, list | tuple) else [argument]:
            if isinstance(x, Traced):
                c.freeze(x, "an operation that canon does not know")
    if isinstance(out, Tensor):
        return c.fixed(out.shape, "an operation that canon does not know")
    return [
        c.fixed(x.shape, "an operation that canon does not know") if isinstance(x, Tensor) else None
        for x in out
    ]
