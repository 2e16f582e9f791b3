r"""Proof by numbers: a group that is a symmetry leaves the network's function as it was.

The network runs in float64 and evaluation mode with perturbed parameters and random running
statistics (so that zero-initialised branches count), then once more with a random element of every
group applied. Where the outputs differ by more than 1e-9 relative, groups are tried one at a time;
those that fail are frozen and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from canon import permutation
from canon.program import Program
from canon.scale import apply_scale
from canon.spec import Axis, Factor, PermutationSpec

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Proof:
    """`spec` holds the groups that passed; `failed` says how far the outputs moved for the others.

    `difference` is the largest relative change of an output under the elements that passed.
    """

    spec: PermutationSpec
    difference: float
    failed: dict[str, float]

    @property
    def holds(self) -> bool:
        return not self.failed


def prove(
    network: nn.Module | ExportedProgram, example_inputs: Any, spec: PermutationSpec, *, seed: int = 0
) -> Proof:
    """Exercise every group and every scale of `spec` on the network, which is left untouched."""
    program = Program.of(network, example_inputs)
    spec.check(
        {name: torch.empty(shape, device="meta") for name, (_, shape) in program.state_identities.items()}
    )
    return prove_program(program, spec, seed=seed)


def prove_program(program: Program, spec: PermutationSpec, *, seed: int = 0) -> Proof:
    generator = torch.Generator().manual_seed(seed)
    state = _lively(program, spec, generator)
    reference = program.run(state)
    element = permutation.random(spec, generator)
    scales = random_scales(spec, generator)

    def difference(groups: Iterable[str], scaled: Mapping[str, Tensor]) -> float:
        chosen = permutation.identity(spec) | {name: element[name] for name in groups}
        moved = permutation.apply(spec, chosen, apply_scale(spec, scaled, state))
        return relative_difference(reference, program.run(moved))

    failed: dict[str, float] = {}
    unscaled: list[str] = []
    worst = difference(spec.groups, scales)
    if worst > TOLERANCE:
        for name in spec.groups:
            if (apart := difference([name], {})) > TOLERANCE:
                failed[name] = apart
            elif name in scales and difference([], {name: scales[name]}) > TOLERANCE:
                unscaled.append(name)
        kept = [name for name in spec.groups if name not in failed]
        worst = difference(kept, {n: s for n, s in scales.items() if n in kept and n not in unscaled})
        if worst > TOLERANCE:  # each alone preserves the function and all together do not
            failed |= {name: worst for name in kept}
            worst = 0.0
    spec = _without_scale(spec, unscaled)
    for name, apart in failed.items():
        spec = freeze(spec, name, f"the proof failed: outputs change by {apart:.1e} of their size")
    return Proof(spec, worst, failed)


def _lively(program: Program, spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """The network's state with constant tensors perturbed and random running statistics."""
    state: dict[str, Tensor] = {}
    drawn: dict[Any, Tensor] = {}
    values = {slot.identity: slot.value for slot in program.slots if slot.kind == "state"}
    for name, (identity, shape) in program.state_identities.items():
        value = values.get(identity)
        if value is None:
            state[name] = torch.zeros(shape, dtype=torch.float64)
            continue
        if identity not in drawn:
            noise = torch.rand(shape, generator=generator, dtype=torch.float64).to(value.device)
            if not value.is_floating_point():
                drawn[identity] = value
            elif name in spec.statistics:
                drawn[identity] = noise + 0.5
            elif (value.numel() > 1 and value.std() == 0) or not value.isfinite().all():
                drawn[identity] = value.nan_to_num(0.0, 0.0, 0.0) + noise - 0.5
            else:
                drawn[identity] = value
        state[name] = drawn[identity]
    return state


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
