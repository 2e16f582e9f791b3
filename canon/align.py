"""One job, whole: match B to A, relabel B, prove that its function stayed, report what was gained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canon.checkpoint import Checkpoint
from canon.errors import InputError, WorkError
from canon.match import Match
from canon.resolve import Resolved, require_finite, require_same
from canon.spec import PermutationSpec
from canon.transform import Transform
from canon.verify import TOLERANCE, output_difference

Matcher = Callable[[PermutationSpec, Mapping[str, Tensor], Mapping[str, Tensor]], Match]


@dataclass(frozen=True)
class Alignment:
    """B in A's order: the network, the transform that made it, the match behind it, the report."""

    aligned: Checkpoint
    transform: Transform
    match: Match
    report: dict[str, Any]


def align(
    a: Checkpoint,
    b: Checkpoint,
    resolved: Resolved,
    matcher: Matcher,
    *,
    generator: torch.Generator,
    names: tuple[str, str] = ("A", "B"),
) -> Alignment:
    """Align `b` to `a` with `matcher` and prove that the function of `b` stayed.

    The result keeps the keys, order, dtypes, metadata and ties of `b`; the two may differ in dtype.
    Raises `InputError` where they are different architectures or not finite, `WorkError` where the
    aligned network does not compute what `b` computes.
    """
    require_same(a.state, b.state, *names)
    for state, name in zip((a.state, b.state), names, strict=True):
        require_finite(state, name)
    spec = resolved.spec
    match = matcher(spec, *comparable(a.state, b.state))
    transform = Transform(spec, match.permutation)
    aligned = b.with_state(transform.apply(b.state))
    report = {
        "objective_before": match.objective_before.item(),
        "objective_after": match.objective.item(),
        "distance_before": distance(spec, a.state, b.state),
        "distance_after": distance(spec, a.state, aligned.state),
        **prove(resolved, b.state, aligned.state, transform, generator),
        "groups": describe_groups(match, spec),
        "moved_fraction": moved_fraction(spec, match.moved),
        "sweeps": match.sweeps,
        "converged": match.converged,
        "seconds": match.seconds,
        **peak_memory(),
        "spec_source": resolved.source,
        "frozen": dict(spec.frozen),
    }
    if not report["moved_fraction"]:
        report["nothing_moved_because"] = _why_nothing_moved(spec, a.state, b.state)
    return Alignment(aligned, transform, match, report)


def comparable(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both networks in one dtype for each tensor, at least float32; equal dtypes cost no copy."""
    wide_a, wide_b = {}, {}
    for name in b:
        dtype = torch.promote_types(a[name].dtype, b[name].dtype)
        if dtype.is_floating_point:
            dtype = torch.promote_types(dtype, torch.float32)
        wide_a[name], wide_b[name] = a[name].to(dtype), b[name].to(dtype)
    return wide_a, wide_b


def distance(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The L2 distance of two networks in float64, statistics left out."""
    total = 0.0
    for name, tensor in b.items():
        if tensor.is_floating_point() and name not in spec.statistics:
            total += (a[name].double() - tensor.double()).square().sum().item()
    return total**0.5


def prove(
    resolved: Resolved,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    transform: Transform,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Report entries that say how it is known that `after` computes the function of `before`."""
    if resolved.runnable is not None:
        found = output_difference(resolved.runnable, before, after, generator)
        if not found.same:
            raise WorkError(
                f"the result does not compute the same function (outputs differ by {found.relative:.2e} relative, "
                f"allowed {TOLERANCE:.0e}): the spec ({resolved.source}) is wrong; nothing was written"
            )
        proof = f"outputs compared in float64 on {found.inputs} random batches: {found.relative:.1e} relative"
        return {"max_output_difference": found.absolute, "proof": proof}
    if not transform.scales:
        back = transform.inverse().apply(after)
        if not all(torch.equal(back[name], before[name]) for name in before):
            raise WorkError("the relabelling could not be undone bit for bit; nothing was written")
    return {
        "max_output_difference": None,
        "max_output_difference_reason": "the network's code is not known; give --model or a .pt2 file to compare outputs",
        "proof": f"a relabelling, undone bit for bit; {resolved.evidence}",
    }


def describe_groups(match: Match, spec: PermutationSpec) -> list[dict[str, Any]]:
    """Each group's size, gain and fraction moved, as the report lists them."""
    return [
        {
            "name": name,
            "size": group.size,
            "within": group.within,
            "moved": match.moved.get(name, 0.0),
            "gain": match.gains.get(name, 0.0),
        }
        for name, group in spec.groups.items()
    ]


def moved_fraction(spec: PermutationSpec, moved: Mapping[str, float]) -> float:
    """The fraction of all units, of all groups, that changed place."""
    units = {name: torch.Size(spec.shape(name)).numel() for name in spec.groups}
    return sum(moved.get(name, 0.0) * count for name, count in units.items()) / max(sum(units.values()), 1)


def _why_nothing_moved(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    if not spec.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(spec.frozen.items())[:3])
        return f"no group of units may move{': ' + reasons if reasons else ''}"
    if all(torch.equal(a[name].to(b[name].dtype), b[name]) for name in b):
        return "A and B are the same network"
    return "B's units already stand in A's order: no exchange brings the two closer"


def peak_memory() -> dict[str, Any]:
    """The process's peak resident memory in bytes, torch itself included."""
    try:
        import resource
    except ImportError:
        return {"peak_memory_bytes": None, "peak_memory_bytes_reason": "this system does not measure it"}
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def matcher_for(method: str, start: str, generator: torch.Generator) -> Matcher:
    """The matcher that a name on the command line stands for; `InputError` lists the names."""
    if method == "weights":
        from canon.weight_matching import match_weights

        return lambda spec, a, b: match_weights(spec, a, b, start=start, generator=generator)
    raise InputError(f"method '{method}' is not known; one of weights, activations, transfusion")
