r"""A numerical check: a group that is a symmetry leaves the network's function as it was.

The network runs in float64 and evaluation mode with perturbed parameters and random running
statistics (so that zero-initialised branches count), then once more with a random element of every
group applied. Where the outputs differ by more than 1e-9 relative, groups are tried one at a time;
those that fail are frozen and named, with the operation that broke them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from canon.actions import permutation
from canon.actions.scaling import apply_scale
from canon.io.dtypes import is_mask
from canon.spec import Axis, Factor, PermutationSpec
from canon.tracing.exported_graph import Program
from canon.tracing.failure_localization import breaking_operation

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
    generator = torch.Generator().manual_seed(seed)
    state = _lively(program, spec, generator)
    silent = _silent(program, spec, state, generator)
    if silent:
        redrawn = _redrawn(program, spec, generator)
        still = _silent(program, spec, redrawn, generator)
        if len(still) < len(silent):
            state, silent = redrawn, still
    for name in silent:
        if name in spec.groups:
            spec = freeze(
                spec, name, "the numerical check could not exercise it: the outputs do not depend on it"
            )
    reference = program.run(state)
    element = permutation.random(spec, generator)
    scales = random_scales(spec, generator)

    def move(groups: Iterable[str], scaled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chosen = permutation.identity(spec) | {name: element[name] for name in groups}
        return permutation.apply(spec, chosen, apply_scale(spec, scaled, state))

    def difference(groups: Iterable[str], scaled: Mapping[str, Tensor]) -> float:
        return relative_difference(reference, program.run(move(groups, scaled)))

    failed: dict[str, float] = {}
    culprits: dict[str, str | None] = {}
    unscaled: list[str] = []
    worst = difference(spec.groups, scales)
    if worst > TOLERANCE:
        for name in spec.groups:
            if (apart := difference([name], {})) > TOLERANCE:
                failed[name] = apart
                culprits[name] = breaking_operation(program, state, move([name], {}))
            elif name in scales and difference([], {name: scales[name]}) > TOLERANCE:
                unscaled.append(name)
        kept = [name for name in spec.groups if name not in failed]
        worst = difference(kept, {n: s for n, s in scales.items() if n in kept and n not in unscaled})
        if worst > TOLERANCE:  # each alone preserves the function and all together do not
            failed |= {name: worst for name in kept}
            worst = 0.0
    spec = _without_scale(spec, unscaled)
    for name, apart in failed.items():
        where = f", broken by {culprits[name]}" if culprits.get(name) else ""
        spec = freeze(
            spec, name, f"the numerical check failed: outputs change by {apart:.1e} of their size{where}"
        )
    return GroupCheck(spec, worst, failed)


def _lively(program: Program, spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """The network's state with constant tensors perturbed and random running statistics."""

    def draw(value: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        if is_mask(value):
            return value
        if (value.numel() > 1 and value.std() == 0) or not value.isfinite().all():
            return value.nan_to_num(0.0, 0.0, 0.0) + noise() - 0.5
        return value

    return _drawn(program, spec, generator, draw)


def _redrawn(program: Program, spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """New weights, for a network whose own let nothing through: symmetries belong to the architecture."""

    def draw(value: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        if is_mask(value):
            return value
        if value.dim() > 1:
            return (noise() - 0.5) * (24.0 / max(1, value[0].numel())) ** 0.5  # twice 1 / fan-in, for ReLU
        return noise() - 0.5 + float(value.numel() > 0 and value.mean() > 0.5)

    return _drawn(program, spec, generator, draw)


def _drawn(
    program: Program,
    spec: PermutationSpec,
    generator: torch.Generator,
    draw: Callable[[Tensor, Callable[[], Tensor]], Tensor],
) -> dict[str, Tensor]:
    """A state with every tensor drawn once, tied ones alike; `noise()` is uniform in [0, 1]."""
    state: dict[str, Tensor] = {}
    drawn: dict[Any, Tensor] = {}
    values = {slot.identity: slot.value for slot in program.slots if slot.kind == "state"}
    for name, (identity, shape) in program.state_identities.items():
        value = values.get(identity)
        if value is None:
            state[name] = torch.zeros(shape, dtype=torch.float64)
            continue
        if identity not in drawn:

            def noise(value: Tensor = value) -> Tensor:
                return torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.device)

            if not value.is_floating_point():
                drawn[identity] = value
            elif name not in spec.statistics:
                drawn[identity] = draw(value, noise)
            elif value.numel() and value.min() >= 0 and value.max() > 0:  # a variance
                drawn[identity] = noise() + 0.5
            else:
                drawn[identity] = 0.2 * noise() - 0.1
        state[name] = drawn[identity]
    return state


def _silent(
    program: Program, spec: PermutationSpec, state: Mapping[str, Tensor], generator: torch.Generator
) -> list[str]:
    """Groups about which the outputs could say nothing: fewer than two of their tensors (all, if fewer)
    change the outputs by more than 1e-7 of their size."""
    learned = {slot.name for slot in program.slots if slot.learned}
    tracked = {name: t.detach().requires_grad_(name in learned) for name, t in state.items()}
    with torch.enable_grad():
        total = torch.zeros((), dtype=torch.float64)
        for output in program.run(tracked, grad=True):
            if output.requires_grad and output.isfinite().all():
                weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
                total = total + (output * weights).sum() / output.detach().abs().max().clamp(min=1e-300)
    if not total.requires_grad:
        return list(spec.groups)
    wanted = {name: t for name, t in tracked.items() if t.requires_grad}
    slopes = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    heard = {
        name
        for (name, value), slope in zip(wanted.items(), slopes, strict=True)
        if slope is not None and value.numel() and float((slope * value.detach()).abs().max()) > 1e-7
    }
    silent = []
    for group in spec.groups:
        tensors = {name for name, _ in spec.uses(group)} & wanted.keys()
        if len(tensors & heard) < min(2, len(tensors)):
            silent.append(group)
    return silent


def random_scales(spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """A scale for each unit of each group that has one: in [1/2, 2], or a sign."""
    scales = {}
    for name, group in spec.groups.items():
        if group.scale != "none":
            draw = 2 * torch.rand(spec.shape(name), generator=generator, dtype=torch.float64) - 1
            scales[name] = torch.exp2(draw) if group.scale == "positive" else draw.sign()
    return scales


def relative_difference(reference: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference of an output, relative to that output's largest entry."""
    worst = 0.0
    for one, two in zip(reference, found, strict=True):
        if one.is_complex() or one.is_floating_point():
            known = one.isfinite()
            if not torch.equal(known, two.isfinite()):
                return float("inf")
            if not known.any() and one.numel():
                return float("inf")  # nothing to compare
            if known.any():
                apart = (one[known] - two[known]).abs().max() / one[known].abs().max().clamp(min=1e-300)
                worst = max(worst, float(apart))
        elif not torch.equal(one, two):
            return float("inf")
    return worst


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
