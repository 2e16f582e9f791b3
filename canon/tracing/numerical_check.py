r"""Numerical check of symmetries: a permutation of a group must not change the network's function.

The network runs in float64 and evaluation mode with perturbed parameters and random running
statistics (so that zero-initialised branches count), then once more with a random element of every
group applied. Where the outputs differ by more than 1e-9 relative, those that do it alone are found by halving;
they are frozen and named, with the operation that broke them.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from canon.actions import permutation
from canon.actions.scaling import is_scaled, scale_one
from canon.io.dtypes import all_finite, computable, is_mask
from canon.spec import Axis, Factor, PermutationSpec
from canon.tracing.exported_graph import Program
from canon.tracing.failure_localization import breaking_operation
from canon.tracing.output_comparison import relative_difference, typical_size
from canon.tracing.streaming import wide
from canon.types import LazyState

TOLERANCE = 1e-9


@dataclass(frozen=True)
class GroupCheck:
    """`spec` holds the groups that passed; `failed` says how far the outputs moved for the others.

    `difference` is the largest relative change of an output under the elements that passed.
    """

    spec: PermutationSpec
    difference: float
    failed: dict[str, float]

    @property
    def holds(self) -> bool:
        return not self.failed


def check_groups(
    network: nn.Module | ExportedProgram, example_inputs: Any, spec: PermutationSpec, *, seed: int = 0
) -> GroupCheck:
    """Check numerically that every group and every scale of a spec keeps the function of a network.

    Each is exercised with a random element in float64; the network is left untouched.

    Args:
        network: a module, or an exported program.
        example_inputs: a tensor, a tuple of positional or a dict of named inputs.
        spec: the symmetries to check.
        seed: seed of the random elements and inputs.

    Returns:
        For each group the largest relative change of the outputs, and which groups change them.

    Raises:
        InputError: the network cannot be run on the inputs.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> type(canon.check_groups(net, torch.randn(1, 4), spec)).__name__
        'GroupCheck'
    """
    program = Program.of(network, example_inputs)
    spec.check(
        {name: torch.empty(shape, device="meta") for name, (_, shape) in program.state_identities.items()}
    )
    return check_program(program, spec, seed=seed)


def check_program(program: Program, spec: PermutationSpec, *, seed: int = 0) -> GroupCheck:
    """`check_groups` of a network that was exported already.

    Of a large one the tensors are made when an operation wants them, and freed after it.
    """
    generator = torch.Generator().manual_seed(seed)
    state = lively_state(program, spec, seed)
    reference, irrelevant = _irrelevant_groups(program, spec, state, generator)
    if irrelevant:
        redrawn = _redrawn(program, spec, seed)
        again, still = _irrelevant_groups(program, spec, redrawn, generator)
        if len(still) < len(irrelevant):
            state, reference, irrelevant = redrawn, again, still
    if irrelevant and not program.large:  # rounding, signs and largest places have no gradient
        irrelevant = [
            name for name in irrelevant if not _moves_outputs(program, spec, state, reference, name)
        ]
    for name in irrelevant:
        if name in spec.groups:
            spec = freeze(
                spec, name, "the numerical check could not exercise it: the outputs do not depend on it"
            )
    element = permutation.random(spec, generator)
    scales = random_scales(spec, generator)

    def move(groups: Iterable[str], scaled: Iterable[str]) -> Mapping[str, Tensor]:
        chosen = permutation.identity(spec) | {name: element[name] for name in groups}
        factors = {name: scales[name] for name in scaled}

        def moved(name: str) -> Tensor:
            # Moved first, in its own dtype: the scales are those of units in their new places.
            tensor = permutation.relabel(spec, chosen, name, state[name], 0)
            if is_scaled(spec, factors, name):
                tensor = scale_one(spec, factors, name, wide(tensor))
            return tensor

        return LazyState(state, moved)

    def difference(groups: Iterable[str], scaled: Iterable[str]) -> float:
        return relative_difference(reference, program.run(move(groups, scaled)))

    failed: dict[str, float] = {}
    unscaled: list[str] = []
    worst = difference(spec.groups, scales)
    if worst > TOLERANCE:
        failed = find_culprits(list(spec.groups), lambda names: difference(names, []))
        kept = [name for name in spec.groups if name not in failed]
        unscaled = list(find_culprits([n for n in kept if n in scales], lambda names: difference([], names)))
        worst = difference(kept, [n for n in scales if n in kept and n not in unscaled])
    culprits = {name: breaking_operation(program, state, move([name], [])) for name in failed}
    if worst > TOLERANCE:  # each alone preserves the function and all together do not
        failed |= {name: worst for name in spec.groups if name not in failed}
        worst = 0.0
    spec = _without_scale(spec, unscaled)
    for name, apart in failed.items():
        where = f", broken by {culprits[name]}" if culprits.get(name) else ""
        spec = freeze(
            spec, name, f"the numerical check failed: outputs change by {apart:.1e} of their size{where}"
        )
    return GroupCheck(spec, worst, failed)


def find_culprits(
    names: list[str], difference: Callable[[list[str]], float], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """The groups among `names` that change the outputs on their own, and by how much, found by bisection."""
    if not names or (apart := difference(names)) <= tolerance:
        return {}
    if len(names) == 1:
        return {names[0]: apart}
    middle = len(names) // 2
    halves = names[:middle], names[middle:]
    return find_culprits(halves[0], difference, tolerance) | find_culprits(halves[1], difference, tolerance)


def lively_state(program: Program, spec: PermutationSpec, seed: int) -> Mapping[str, Tensor]:
    """The network's state with constant tensors perturbed and random running statistics."""

    kinds: dict[int, str] = {}  # a tensor may be asked for many times

    def draw(value: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        kind = kinds[id(value)] if id(value) in kinds else kinds.setdefault(id(value), _kind(value))
        if kind != "dull":
            return value
        return value.double().nan_to_num(0.0, 0.0, 0.0) + noise() - 0.5

    return _drawn(program, spec, seed, draw)


def _redrawn(program: Program, spec: PermutationSpec, seed: int) -> Mapping[str, Tensor]:
    """New weights, for a network whose own give constant outputs: symmetries belong to the architecture."""

    def draw(value: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        if is_mask(value):
            return value
        if value.dim() > 1:
            return (noise() - 0.5) * (24.0 / max(1, value[0].numel())) ** 0.5  # twice 1 / fan-in, for ReLU
        return noise() - 0.5 + float(value.numel() > 0 and value.double().mean() > 0.5)

    return _drawn(program, spec, seed, draw)


def _drawn(
    program: Program,
    spec: PermutationSpec,
    seed: int,
    draw: Callable[[Tensor, Callable[[], Tensor]], Tensor],
) -> Mapping[str, Tensor]:
    """A state with every tensor drawn once, tied ones alike; `noise()` is uniform in [0, 1]."""
    values = {slot.identity: slot.value for slot in program.slots if slot.kind == "state"}
    owners: dict[Any, tuple[int, bool]] = {}  # the number of each tensor, and whether it is a statistic
    for name, (identity, _) in program.state_identities.items():
        owners.setdefault(identity, (len(owners), name in spec.statistics))

    def make(name: str) -> Tensor:
        identity, shape = program.state_identities[name]
        if identity not in values:
            return torch.zeros(shape, dtype=torch.float64)
        value, (number, statistic) = values[identity], owners[identity]

        def noise() -> Tensor:
            generator = torch.Generator().manual_seed(seed + 1 + number)
            return torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.device)

        if not value.is_floating_point():
            return value
        if not statistic:
            return draw(value, noise)
        if value.numel() and computable(value).min() >= 0 and computable(value).max() > 0:  # a variance
            return noise() + 0.5
        return 0.2 * noise() - 0.1

    lazy = LazyState(program.state_identities, make)
    return lazy if program.large else _kept(program, lazy)


def _kept(program: Program, lazy: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors themselves, one for all names that are tied."""
    made: dict[Any, Tensor] = {}
    for name, (identity, _) in program.state_identities.items():
        if identity not in made:
            made[identity] = wide(lazy[name])
    return {name: made[identity] for name, (identity, _) in program.state_identities.items()}


def _kind(value: Tensor) -> Literal["dull", "mask", "lively"]:
    """Whether a tensor lets a check see through it: one number throughout, or NaN, does not."""
    if not value.numel():
        return "lively"
    if not all_finite(value):
        return "mask" if is_mask(value) else "dull"
    few = computable(value.flatten()[:64])
    constant = value.numel() > 1 and (few == few[0]).all() and (computable(value) == few[0]).all()
    return "dull" if constant else "lively"


def _irrelevant_groups(
    program: Program, spec: PermutationSpec, state: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[list[Tensor], list[str]]:
    """The outputs, and the groups that they do not depend on.

    Fewer than two of these groups' tensors (all, if fewer) change the outputs by more than 1e-7 of their size.
    """

    def probe(output: Tensor) -> Tensor | None:
        if not output.isfinite().any() or output.isnan().any():
            return None
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        sizes = output.detach().abs()
        return weights / sizes.clamp(min=max(typical_size([output.detach()]), 1e-300))

    learned = {slot.name: slot.value.numel() for slot in program.slots if slot.learned}
    members = {group: _learned_members(program, spec, group) for group in spec.groups}
    few: set[str] = set()
    for tensors in members.values():
        few.update(sorted(tensors, key=lambda name: learned[name])[:2])
    # Gradients of the smallest tensors are enough, if the outputs depend on them; those of the largest tensors take most memory.
    for tracked in (few, learned.keys()) if program.large else (learned.keys(),):
        outputs, relevant = program.outputs_and_relevance(state, tracked, probe, 1e-7)
        irrelevant = [g for g, tensors in members.items() if len(tensors & relevant) < min(2, len(tensors))]
        if not irrelevant:
            break
    return outputs, irrelevant if relevant else list(spec.groups)


def _learned_members(program: Program, spec: PermutationSpec, group: str) -> set[str]:
    """The parameters that a group moves."""
    return {name for name, _ in spec.uses(group)} & {slot.name for slot in program.slots if slot.learned}


def _moves_outputs(
    program: Program, spec: PermutationSpec, state: Mapping[str, Tensor], reference: list[Tensor], group: str
) -> bool:
    """Whether the outputs change where a group moves one of its tensors alone, for two of them (all, if fewer)."""
    element = permutation.random(spec, torch.Generator().manual_seed(0))
    chosen = permutation.identity(spec) | {group: element[group]}
    tensors, changed = _learned_members(program, spec, group), 0
    for name in sorted(tensors):
        moved = {name: permutation.relabel(spec, chosen, name, state[name], 0)}
        changed += relative_difference(reference, program.run(ChainMap(moved, dict(state)))) > 1e-7
        if changed >= min(2, len(tensors)):
            return True
    return False


def random_scales(spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """A scale for each unit of each group that has one: in [1/2, 2], or a sign."""
    scales = {}
    for name, group in spec.groups.items():
        if group.scale != "none":
            draw = 2 * torch.rand(spec.shape(name), generator=generator, dtype=torch.float64) - 1
            scales[name] = torch.exp2(draw) if group.scale == "positive" else draw.sign()
    return scales


def freeze(spec: PermutationSpec, name: str, reason: str) -> PermutationSpec:
    """The spec without this group and what lies within it; their positions stay where they are."""
    gone = {name} | {g.name for g in spec.groups.values() if g.within == name}

    def still(factor: Factor) -> Factor:
        return Factor(factor.size) if factor.group in gone else factor

    return replace(
        spec,
        groups={n: g for n, g in spec.groups.items() if n not in gone},
        axes=_map_factors(spec, still),
        frozen=spec.frozen | {n: reason for n in gone},
    )


def _without_scale(spec: PermutationSpec, names: list[str]) -> PermutationSpec:
    def still(factor: Factor) -> Factor:
        return replace(factor, power=0) if factor.group in names else factor

    groups = {n: replace(g, scale="none") if n in names else g for n, g in spec.groups.items()}
    return replace(spec, groups=groups, axes=_map_factors(spec, still))


def _map_factors(spec: PermutationSpec, change: Any) -> dict[str, tuple[Axis, ...]]:
    return {
        name: tuple(Axis(tuple(tuple(change(f) for f in seg) for seg in axis.segments)) for axis in axes)
        for name, axes in spec.axes.items()
    }
