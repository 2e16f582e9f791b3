r"""Symmetry groups of any network, from its graph.

The network is exported (torch.export) and its graph is read once (`canon.tracing.interpreter`); beside
each tensor runs the structure of its axes (`canon.tracing.axis_unification`), about which every operation says something
(`canon.tracing.operations`). Inputs and outputs stay where they are. What is still free to move at the end
are the groups. Channels whose every mention stands beside their head are nested within it.

    spec = canon.trace(module, example_inputs)
    spec = canon.trace(torch.export.load("network.pt2"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from canon.io.dtypes import is_mask
from canon.spec import Axis, Factor, Group, PermutationSpec
from canon.tracing.axis_unification import Structure
from canon.tracing.exported_graph import GraphInput, Program, call_of
from canon.tracing.interpreter import Interpreter, shapes_known, tensors_in
from canon.tracing.numerical_check import check_program
from canon.tracing.operations import Context, Traced
from canon.tracing.other_sizes import freeze_by_size
from canon.tracing.scale_inference import ScaleEquations
from canon.tracing.streaming import wide


def trace(
    network: nn.Module | ExportedProgram, example_inputs: Any = None, *, verify: bool = True
) -> PermutationSpec:
    """The permutation symmetries of a network, read from its graph.

    Args:
        network: a module, or an exported program. It is left untouched.
        example_inputs: a tensor, a tuple of positional or a dict of named inputs; a program brings its own.
        verify: check every group numerically with a random element in float64; one that changes the output is frozen
            and named in `spec.frozen`.

    Returns:
        Groups, and for every tensor of the network's `state_dict` which groups move which axes.

    Raises:
        InputError: torch.export cannot follow the network.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> spec.axes["0.weight"][0].groups == spec.axes["2.weight"][1].groups
        True
    """
    program = Program.of(network, example_inputs)
    if isinstance(network, ExportedProgram):
        return trace_program(program, verify=verify)
    return trace_module(network, program, *call_of(example_inputs), verify=verify)


def trace_recorded(network: nn.Module, inputs: tuple[Tensor, ...], *, verify: bool = True) -> PermutationSpec:
    """`trace`, of a module whose forward pass is a sequence of operations; starts faster than torch.export."""
    return trace_module(network, Program.recorded(network, inputs), inputs, {}, verify=verify)


def trace_module(
    network: nn.Module, program: Program, args: Any, kwargs: Mapping[str, Any], *, verify: bool = True
) -> PermutationSpec:
    """`trace`, of a module that was exported already, as `program`."""
    spec = trace_program(program, verify=verify)
    return freeze_by_size(spec, program, network, args, kwargs) if verify else spec


def trace_program(program: Program, *, verify: bool = True) -> PermutationSpec:
    """`trace`, of a network that was exported already."""
    spec = _Reader(program, verify).read()
    if not verify:
        return spec
    check = check_program(program, spec)
    across = {group for tensor, (_, inner) in spec.joins.items() for group in spec.axes[tensor][inner].groups}
    if across & check.failed.keys():  # units of all experts may still move together
        return check_program(program, _Reader(program, verify, across=False).read()).spec
    return check.spec


class _Reader:
    """Derive a spec from a program; with `across`, units may nest within units of another axis."""

    def __init__(self, program: Program, checked: bool, across: bool = True) -> None:
        self.program, self.across = program, across
        self.context = Context(checked)
        self.units = self.context.units

    def read(self) -> PermutationSpec:
        structures = self._propagate()
        axes = {name: [self.units.expand(axis) for axis in found] for name, found in structures.items()}
        names = self._names(axes)
        within = self._nesting(axes, names)
        degrees = ScaleEquations(self.units)
        groups, powers = {}, {}
        outer = {unit for unit in within.values() if unit is not None}
        for unit, name in names.items():
            mentions = [
                degree
                for found in axes.values()
                for axis in found
                for segment in axis
                for child, degree in segment
                if self.units.find(child) == unit
            ]
            scale, power = ("none", {}) if unit in outer else degrees.solve(unit, mentions)
            nest = within.get(unit)
            groups[name] = Group(name, self.units.sizes[unit], None if nest is None else names[nest], scale)
            powers[unit] = power
        return PermutationSpec(
            groups=groups,
            axes={
                name: tuple(self._axis(axis, names, powers) for axis in found) for name, found in axes.items()
            },
            statistics=frozenset(self._statistics(axes)),
            frozen=self._frozen(axes),
        )

    def _propagate(self) -> dict[str, list[Structure]]:
        """Run the graph; the axes of every tensor of the state."""
        structures: dict[str, list[Structure]] = {}
        tensors: dict[Any, list[Structure]] = {}
        values: dict[int, Any] = {}
        arguments: list[Any] = []
        used, known = self.program.used, shapes_known(self.program.graph)
        for slot in self.program.slots:
            if not isinstance(slot.value, Tensor):
                arguments.append(slot.value)
            elif slot.kind == "state" and slot.identity not in used:
                arguments.append(None)
            elif slot.kind == "state":
                if slot.identity not in tensors:
                    reason = _stays(slot)
                    tensors[slot.identity] = [
                        self.units.free(size) if reason is None else self.units.fixed(size, reason)
                        for size in slot.value.shape
                    ]
                value = slot.value if known else wide(slot.value)
                values[id(value)] = slot.identity
                arguments.append(Traced(value, list(tensors[slot.identity]), slot.learned))
            else:
                reasons = [f"axis {n} of {slot.kind} {slot.name}" for n in range(slot.value.dim())]
                fixed = [self.units.fixed(s, r) for s, r in zip(slot.value.shape, reasons, strict=True)]
                arguments.append(Traced(slot.value, list(fixed), False))
        outputs = Interpreter(self.program.graph, self.context, known).run(*arguments)
        for number in self.program.outputs:
            for traced in tensors_in([outputs[number]]):
                if traced.numbers is not None:
                    traced.numbers.read = traced.numbers.put_out = True
                for n, axis in enumerate(self.context.axes(traced)):
                    self.units.freeze_axis(axis, f"axis {n} of an output")
        for name, (identity, shape) in self.program.state_identities.items():
            found = tensors.get(identity)
            structures[name] = (
                found
                if found is not None
                else [self.units.fixed(size, f"{name} is not used") for size in shape]
            )
        for numbers in self.context.numbers:
            tried = numbers.used and self.context.checked and not numbers.put_out
            if numbers.read and not tried:
                self.units.freeze_axis(numbers.axis, numbers.reason)
        self._running = {values[i] for i in self.context.statistics if i in values}
        self._freeze_unread(structures)
        self._mentions = [[self.context.mention(dim) for dim in dims] for dims in self.context.seen]
        return structures

    def _freeze_unread(self, structures: dict[str, list[Structure]]) -> None:
        """Freeze what the example inputs do not reach (later positions of a table): other inputs may."""
        read = {
            self.units.find(unit)
            for dim in self.context.read
            for segment in self.units.expand(self.context.mention(dim))
            for unit, _ in segment
        }
        for name, axes in structures.items():
            for axis in axes:
                for unit, _ in self.units.moving(axis):
                    if self.units.find(unit) not in read:
                        self.units.freeze(unit, f"{name} is not read there with these inputs")

    def _names(self, axes: dict[str, list[Structure]]) -> dict[int, str]:
        """A name for each moving unit: the first tensor whose rows it is."""
        names: dict[int, str] = {}
        for by_row in (True, False):
            for tensor, found in axes.items():
                stem = tensor.rpartition(".")[0] or tensor
                for number, axis in enumerate(found):
                    if by_row and number:
                        continue
                    for unit in dict.fromkeys(self.units.find(u) for u, _ in self.units.moving(axis)):
                        if unit in names:
                            continue
                        name, count = stem, 1
                        while name in names.values():
                            count += 1
                            name = f"{stem}#{count}"
                        names[unit] = name
        return names

    def _nesting(self, axes: dict[str, list[Structure]], names: dict[int, str]) -> dict[int, int | None]:
        """The outer unit of each unit that never appears without it."""
        outers: dict[int, list[int]] = {}

        def meet(unit: int, beside: list[int]) -> None:
            known = outers.get(unit)
            outers[unit] = beside if known is None else [u for u in known if u in beside]

        batched = (
            {unit for axis in self.units.batched for unit in self._present(axis)} if self.across else set()
        )
        for found in axes.values():
            whole = [self._whole(axis) for axis in found]
            for number, axis in enumerate(found):
                others = [u for n, u in enumerate(whole) if n != number and u in batched and u in names]
                for segment in axis:
                    before: list[int] = []
                    for child, _ in segment:
                        unit = self.units.find(child)
                        if unit in names:
                            meet(unit, [u for u in (*before, *others) if u != unit])
                            before.append(unit)
        rows = [
            (frozenset().union(*map(self._present, places)), self._present(chosen))
            for places, chosen in self.units.carried
        ]
        for dims in self._mentions:
            every = frozenset[int]().union(*map(self._present, dims))
            moving = {self.units.find(u) for axis in dims for u, _ in self.units.moving(axis)}
            carried = {unit for places, chosen in rows if places and places <= every for unit in chosen}
            for unit in moving:
                if unit in outers:
                    meet(unit, [u for u in outers[unit] if u in moving | carried])
        apart = {
            (self.units.find(inner), self.units.find(outer))
            for a, b in self.units.apart
            for inner in self._leaf_units(a)
            for outer in self._leaf_units(b)
        }
        within: dict[int, int | None] = {}
        for unit in sorted(outers, key=lambda u: len(outers[u])):
            allowed = [u for u in outers[unit] if (unit, u) not in apart and within.get(u) is None]
            within[unit] = allowed[0] if allowed else None
            if within[unit] is not None and self._crowded(axes, within):
                within[unit] = None
        return within

    def _present(self, axis: Structure) -> frozenset[int]:
        """The units of an axis, those that cannot move included."""
        return frozenset(self.units.find(u) for segment in self.units.expand(axis) for u, _ in segment)

    def _whole(self, axis: Structure) -> int | None:
        """The unit that is all of an axis, or None."""
        return self.units.find(axis[0][0][0]) if len(axis) == 1 and len(axis[0]) == 1 else None

    def _crowded(self, axes: dict[str, list[Structure]], within: dict[int, int | None]) -> bool:
        """Whether some tensor has two axes with units within those of another axis."""
        return any(sum(self._lies_apart(axis, within) for axis in found) > 1 for found in axes.values())

    def _lies_apart(self, axis: Structure, within: dict[int, int | None]) -> bool:
        for segment in axis:
            units = [self.units.find(child) for child, _ in segment]
            for n, unit in enumerate(units):
                if within.get(unit) is not None and within[unit] not in units[:n]:
                    return True
        return False

    def _leaf_units(self, unit: int) -> list[int]:
        return [child for segment in self.units.leaves(unit, ()) for child, _ in segment]

    def _axis(self, axis: Structure, names: dict[int, str], powers: dict[int, dict[Any, int]]) -> Axis:
        segments: list[tuple[Factor, ...]] = []
        for segment in axis:
            factors: list[Factor] = []
            for child, degree in segment:
                unit = self.units.find(child)
                size = self.units.sizes[unit]
                if unit in names:
                    factors.append(Factor(size, names[unit], powers[unit].get(degree, 0)))
                elif factors and factors[-1].group is None:
                    factors[-1] = Factor(factors[-1].size * size)
                else:
                    factors.append(Factor(size))
            still = all(factor.group is None for factor in factors)
            size = self.units.length(segment)
            if still and segments and all(factor.group is None for factor in segments[-1]):
                segments[-1] = (Factor(segments[-1][0].size + size),)
            else:
                segments.append((Factor(size),) if still else tuple(factors))
        return Axis(tuple(segments))

    def _statistics(self, axes: dict[str, list[Structure]]) -> list[str]:
        masks = {slot.identity for slot in self.program.slots if slot.kind == "state" and is_mask(slot.value)}
        return [
            name
            for name, (identity, shape) in self.program.state_identities.items()
            if identity in self._running or not shape or identity in masks
        ]

    def _frozen(self, axes: dict[str, list[Structure]]) -> dict[str, str]:
        """Frozen units with the operation responsible, once for each set of units."""
        reasons: dict[str, str] = {}
        seen: set[int] = set()
        for tensor, found in axes.items():
            for number, axis in enumerate(found):
                for segment in axis:
                    for child, _ in segment:
                        unit = self.units.find(child)
                        reason = self.units.frozen(unit)
                        if reason is None or unit in seen or "positions of a convolution" in reason:
                            continue
                        seen.add(unit)
                        reasons.setdefault(f"{tensor} axis {number}", reason)
        return reasons


def _stays(slot: GraphInput) -> str | None:
    """Why a tensor of the state cannot move at all, or None."""
    if slot.value.is_complex():
        return f"{slot.name} is complex"
    # A buffer of rank one may be a running statistic; of a higher rank, or of whole numbers, it is a table, unless the
    # weight is computed from it (torch.nn.utils.parametrize).
    table = slot.value.dim() > 1 or not slot.value.is_floating_point()
    if not slot.learned and table and "parametrizations." not in slot.name:
        return f"{slot.name} is a table, not learned"
    return None
