r"""Activation matching: the permutation with the largest sum of correlations between units on data.

Unit i of A and unit j of B are as alike as their activations correlate over examples (and positions).
A group is measured wherever a layer's output axis carries it; the correlations of all such layers add up.
Groups that no layer's output carries are matched by weights afterwards, with the others in place.

Li et al. 2016, arXiv:1511.07543; Ainsworth et al. 2023, arXiv:2209.04836.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from canon.actions import permutation as perm
from canon.actions.joined_axes import joined
from canon.errors import InputError
from canon.matching.gram import AxisOccurrence, Family, Grams, uses
from canon.matching.gram_cache import Scores
from canon.matching.nested_assignment import solve_family
from canon.matching.result import Match
from canon.spec import Axis, PermutationSpec
from canon.types import State

# Where a layer keeps its output units: axis of the weight, axis of the output.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


@torch.no_grad()
def match_activations(
    spec: PermutationSpec, module_a: nn.Module, module_b: nn.Module, batches: Iterable[Any]
) -> Match:
    """The permutation of B's units that correlates best with A's on examples.

    Activation matching (Li et al. 2016, arXiv:1511.07543; Ainsworth et al. 2023, arXiv:2209.04836). Both modules
    run in evaluation mode and are left as they were.

    Args:
        spec: the symmetries of the architecture.
        module_a: the network whose order is taken.
        module_b: the network whose units are matched.
        batches: tensors, or tuples of the modules' arguments.

    Returns:
        The match; objectives are sums of correlations, in float64.

    Raises:
        InputError: there is no batch, activations are not finite, or the modules differ.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> canon.match_activations(spec, a, b, [torch.randn(64, 4)]).converged
        True
    """
    began = time.perf_counter()
    states: list[State] = [
        {n: t.detach()[None] for n, t in m.state_dict().items()} for m in (module_a, module_b)
    ]
    for state in states:
        spec.check(state, batch=1)
    measured = _correlation_sums(spec, module_a, module_b, batches)
    spec, states = joined(spec, *states, batch=1)
    still, one = perm.identity(spec), torch.arange(1)
    scores = Scores(spec, states[0], states[1], perm.identity(spec, (1,)))
    before = after = torch.zeros((), dtype=torch.float64)
    gains, unmeasured = dict.fromkeys(spec.groups, 0.0), []
    for family in scores.families:
        grams = _grams(spec, measured, family)
        if not grams or not all(any(name in names for names in grams) for name in family.inners):
            unmeasured.append(family)
            continue
        found = solve_family(spec, family, grams)
        first, last = (scores.value(family, grams, p)[0] for p in (scores.permutation, found))
        before, after, gains[family.outer] = before + first, after + last, float(last - first)
        scores.accept(family, one, found)
    for family in unmeasured:
        if scores.uses[family]:
            scores.accept(family, one, solve_family(spec, family, scores.grams(family, one)))
    result = {name: p[0] for name, p in scores.permutation.items()}
    moved = {name: float((p != still[name]).double().mean()) for name, p in result.items()}
    return Match(result, before, after, 1, True, time.perf_counter() - began, gains, moved)


@dataclass
class _CorrelationSums:
    """Running sums of one layer's outputs in A and B, for its correlations."""

    axis: Axis
    count: int
    a: Tensor
    b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor

    @classmethod
    def zeros(cls, axis: Axis) -> _CorrelationSums:
        n = axis.size
        a, b, aa, bb = torch.zeros(4, n, dtype=torch.float64)
        return cls(axis, 0, a, b, aa, bb, torch.zeros(n, n, dtype=torch.float64))

    def add(self, a: Tensor, b: Tensor) -> None:
        """Two outputs as (examples, units)."""
        a, b = a.double().cpu(), b.double().cpu()
        self.count += len(a)
        self.a += a.sum(0)
        self.b += b.sum(0)
        self.aa += a.square().sum(0)
        self.bb += b.square().sum(0)
        self.ab += a.T @ b

    def correlation(self) -> Tensor:
        """(units of A, units of B); 0 for a unit that never varies."""
        mean_a, mean_b = self.a / self.count, self.b / self.count
        covariance = self.ab / self.count - mean_a[:, None] * mean_b
        deviation_a = (self.aa / self.count - mean_a.square()).clamp(min=0).sqrt()
        deviation_b = (self.bb / self.count - mean_b.square()).clamp(min=0).sqrt()
        scale = deviation_a[:, None] * deviation_b
        # Variance far below the mean square is rounding, not signal.
        floor = 1e-7 * ((self.aa / self.count).sqrt()[:, None] * (self.bb / self.count).sqrt())
        return torch.where(scale > floor, covariance / scale, 0.0)


def _correlation_sums(
    spec: PermutationSpec, module_a: nn.Module, module_b: nn.Module, batches: Iterable[Any]
) -> list[_CorrelationSums]:
    """Run both modules over all batches and accumulate the outputs of the layers that carry groups."""
    a, b = copy.deepcopy(module_a).eval(), copy.deepcopy(module_b).eval()
    measured: dict[tuple[str, int], _CorrelationSums] = {}
    with _recorded(spec, a) as outputs_a, _recorded(spec, b) as outputs_b:
        for batch in batches:
            arguments = batch if isinstance(batch, tuple) else (batch,)
            for outputs, module in ((outputs_a, a), (outputs_b, b)):
                outputs.clear()
                module(*arguments)
            if outputs_a.keys() != outputs_b.keys():
                raise InputError("the two modules do not call the same layers")
            for key, (axis, output) in outputs_a.items():
                if not (output.isfinite().all() and outputs_b[key][1].isfinite().all()):
                    raise InputError(f"layer '{key[0]}' outputs NaN or infinity on the data given")
                measured.setdefault(key, _CorrelationSums.zeros(axis)).add(output, outputs_b[key][1])
    if not measured:
        raise InputError(
            "no activations were recorded: no batch was given, or no layer outputs units of a group"
        )
    return list(measured.values())


@contextmanager
def _recorded(
    spec: PermutationSpec, module: nn.Module
) -> Iterator[dict[tuple[str, int], tuple[Axis, Tensor]]]:
    """Outputs by (layer, call), with the axis of the spec that they carry, as (examples, units)."""
    outputs: dict[tuple[str, int], tuple[Axis, Tensor]] = {}

    def hook(name: str, axis: Axis, dim: int) -> Callable[..., None]:
        def record(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            call = sum(1 for other, _ in outputs if other == name)
            outputs[name, call] = (axis, output.movedim(dim, -1).flatten(0, -2))

        return record

    handles = []
    for name, layer in module.named_modules():
        place = _output_place(layer)
        weight = f"{name}.weight" if name else "weight"
        if place is not None and weight in spec.axes and spec.axes[weight][place[0]].groups:
            handles.append(layer.register_forward_hook(hook(name, spec.axes[weight][place[0]], place[1])))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _output_place(layer: nn.Module) -> tuple[int, int] | None:
    """(axis of its weight, axis of its output) on which a layer keeps its units."""
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        return 0, -1
    if isinstance(layer, nn.Embedding):
        return 1, -1
    if isinstance(layer, (*CONVOLUTIONS, *CHANNEL_NORMS)):
        return 0, 1
    if isinstance(layer, TRANSPOSED) and layer.groups == 1:
        return 1, 1
    return None


def _grams(spec: PermutationSpec, measured: list[_CorrelationSums], family: Family) -> Grams:
    """Correlations of a family's units, summed over the layers that carry it."""
    total: Grams = {}
    for one in measured:
        table = one.correlation()
        alone = PermutationSpec(spec.groups, {"output": (one.axis,)})
        for use in uses(alone, family):
            found = _units(use, table)
            total[use.signature] = total[use.signature] + found if use.signature in total else found
    return total


def _units(use: AxisOccurrence, table: Tensor) -> Tensor:
    """(positions, positions) to (1, units of A, units of B); the positions of one unit are paired up."""
    places = torch.arange(len(table), dtype=torch.float64)[None]
    index = use.units((Axis.fixed(len(table)),), places)[0].flatten(1).long()
    return torch.stack([table[column][:, column] for column in index.T]).sum(0)[None]
