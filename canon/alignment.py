"""Align B to A: match, transform, verify that the function is unchanged, and report the gain."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canon.actions.canonical_form import canonical_element
from canon.actions.permutation import identity
from canon.actions.scaling import minimal_scales, scaled
from canon.actions.transform import Transform
from canon.equivalence.outputs import (
    NO_CODE,
    NUDGE,
    TOLERANCE,
    output_difference,
    rounding_difference,
)
from canon.equivalence.weights import comparable, matchable
from canon.errors import InputError, WorkError
from canon.folding.batch_norm_scale import absorb_scales
from canon.folding.norm_folding import Folded, fold_norms
from canon.io.checkpoint import Checkpoint, require_finite, require_same
from canon.io.dtypes import equal
from canon.matching.gram import PIECE, inner_product
from canon.matching.registry import Matcher, MatcherContext, weights
from canon.matching.result import Match
from canon.models.loading import is_large, require_runnable, with_twins
from canon.models.spec_resolution import SpecSource
from canon.spec import PermutationSpec
from canon.types import LazyState, like


@dataclass(frozen=True)
class Alignment:
    """The result of an alignment: the new checkpoint, the transform that made it, and the report."""

    aligned: Checkpoint
    transform: Transform
    report: dict[str, Any]


def align(
    a: Checkpoint,
    b: Checkpoint,
    resolved: SpecSource,
    matcher: Matcher | None = None,
    *,
    generator: torch.Generator | None = None,
    balance: bool = False,
    names: tuple[str, str] = ("A", "B"),
) -> Alignment:
    """Align `b` to `a` with `matcher` (weight matching by default) and verify that the function of `b` is
    unchanged.

    `generator` draws the inputs on which functions are compared.
    With `balance` the two are matched in balanced scales and the units of the result get the scales of
    A's. The result keeps the keys, order, dtypes, metadata and ties of `b`; the two may differ in dtype.
    Raises `InputError` where they are different architectures or not finite, `WorkError` where the
    aligned network does not compute what `b` computes.
    """
    require_same(a.state, b.state, *names)
    for state, name in zip((a.state, b.state), names, strict=True):
        require_finite(state, name)
    spec = resolved.spec
    matcher = matcher or weights(MatcherContext())
    both = matchable(a.state, b.state) if _lazily(b) else comparable(a.state, b.state)
    match, transform = _match(spec, *both, matcher, balance)
    aligned = _transformed(b, transform)
    report = {
        "objective_before": match.objective_before.item(),
        "objective_after": match.objective.item(),
        "distance_before": distance(spec, a.state, b.state),
        "distance_after": distance(spec, a.state, aligned.state),
        **verified(resolved, b, aligned, transform, generator),
        "groups": _groups(spec, match),
        "moved_fraction": moved_fraction(spec, match.moved),
        "sweeps": match.sweeps,
        "converged": match.converged,
        "seconds": match.seconds,
        **peak_memory(),
        "left_out": _left_out(b),
        "spec_source": resolved.source,
        "frozen": dict(spec.frozen),
    }
    if not report["moved_fraction"]:
        report["nothing_moved_because"] = _why_nothing_moved(spec, a.state, b.state)
    return Alignment(aligned, transform, report)


def canonical_form(
    found: Checkpoint, resolved: SpecSource, generator: torch.Generator | None = None
) -> Alignment:
    """The canonical form of `found`, with the evidence that its function is unchanged."""
    transform = Transform(resolved.spec, *canonical_element(resolved.spec, found.state))
    aligned = _transformed(found, transform)
    report = {
        **verified(resolved, found, aligned, transform, generator),
        "groups": [{"name": name, "moved": moved} for name, moved in transform.moved().items()],
        "moved_fraction": moved_fraction(resolved.spec, transform.moved()),
        **peak_memory(),
        "left_out": _left_out(found),
        "spec_source": resolved.source,
        "frozen": dict(resolved.spec.frozen),
    }
    if not resolved.spec.groups:
        report["nothing_moved_because"] = no_groups(resolved.spec)
    return Alignment(aligned, transform, report)


def balanced_form(
    found: Checkpoint, resolved: SpecSource, generator: torch.Generator | None = None
) -> Alignment:
    """`found` with its ReLU units rescaled to the smallest sum of squares; the function is verified as in
    `align`.
    """
    spec = resolved.spec
    require_finite(found.state, "the network")
    transform = Transform(spec, identity(spec), minimal_scales(spec, found.state))
    balanced = _transformed(found, transform)
    report = {
        "sum_of_squares_before": _squares(spec, found.state),
        "sum_of_squares_after": _squares(spec, balanced.state),
        **verified(resolved, found, balanced, transform, generator),
        "groups": [{"name": name, "size": spec.groups[name].size} for name in transform.scales],
        **peak_memory(),
        "left_out": _left_out(found),
        "spec_source": resolved.source,
        "frozen": dict(spec.frozen),
    }
    if not transform.scales:
        report["nothing_scaled_because"] = "no group of units is known to keep the function when it is scaled"
    return Alignment(balanced, transform, report)


def _lazily(found: Checkpoint) -> bool:
    """Whether the tensors of a result are made when they are asked for; tied ones have to be one object."""
    return is_large(found.state) and not found.holds_ties


def _transformed(found: Checkpoint, transform: Transform) -> Checkpoint:
    state = found.state
    return found.with_state(transform.apply_lazily(state) if _lazily(found) else transform.apply(state))


def _squares(spec: PermutationSpec, state: Mapping[str, Tensor]) -> float:
    """The sum of squares of the weights in float64, statistics left out."""
    weights = (t for name, t in state.items() if t.is_floating_point() and name not in spec.statistics)
    return sum(inner_product(t[None], t[None]).item() for t in weights)


def folded_form(
    found: Checkpoint, resolved: SpecSource, generator: torch.Generator | None = None
) -> tuple[Checkpoint, dict[str, Any]]:
    """The canonical form in which linear layers hold what norms learned (`canon.folding.norm_folding`), and what batch
    norms absorb is one (`canon.folding.batch_norm_scale`); and its report.

    Ordered, folded and ordered again: every relabelling of `found` gives the same bits. The function is
    compared in float64, as for scales. Raises `InputError` where the network's code is not known.
    """
    spec, runnable = resolved.spec, require_runnable(resolved.runnable)
    program = runnable.module if found.program is None else found.program

    def fold(state: Mapping[str, Tensor]) -> Folded:
        gains = fold_norms(program, runnable.examples, with_twins(runnable.module, state))
        done = absorb_scales(program, runnable.examples, gains.state)
        kept = {name: done.state[name] for name in state}
        return Folded(kept, gains.folded | done.folded, gains.kept | done.kept)

    before = Transform(spec, *canonical_element(spec, found.state))
    narrow = fold(before.apply(found.state))
    after = Transform(spec, *canonical_element(spec, narrow.state))
    wide = fold({name: _wide(tensor) for name, tensor in before.apply(found.state).items()})
    exact = Checkpoint(after.apply(wide.state), found.metadata)
    checked = verified(resolved, found, exact, Transform(spec, identity(spec)), generator)
    report = {**checked, "folded": narrow.folded, "kept": narrow.kept, **peak_memory()}
    return found.with_state(after.apply(narrow.state)), report | {"spec_source": resolved.source}


def _match(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], matcher: Matcher, balance: bool
) -> tuple[Match, Transform]:
    if not balance:
        match = matcher(spec, a, b)
        return match, Transform(spec, match.permutation, match.scales)
    scales_a, scales_b = minimal_scales(spec, a), minimal_scales(spec, b)
    match = matcher(spec, scaled(spec, scales_a, a), scaled(spec, scales_b, b))
    unbalance_a = Transform(spec, identity(spec), {name: 1 / s for name, s in scales_a.items()})
    return match, Transform(spec, match.permutation, scales_b | match.scales).then(unbalance_a)


def distance(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The L2 distance of two networks in float64, statistics left out."""
    total = 0.0
    for name, tensor in b.items():
        if tensor.is_floating_point() and name not in spec.statistics:
            # In pieces: a whole tensor in float64 would be the largest thing in memory.
            for one, other in zip(a[name].flatten().split(PIECE), tensor.flatten().split(PIECE), strict=True):
                total += (one.double() - other.double()).square().sum().item()
    return total**0.5


def verified(
    resolved: SpecSource,
    before: Checkpoint,
    after: Checkpoint,
    transform: Transform,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Report entries with the evidence that `after` computes the function of `before`.

    Raises `WorkError` where it does not. Scales are exact in float64 only: with them the float64
    network is compared, and rounding to the file's dtype is left out.
    """
    moved = after.state
    if transform.scales:
        wide = LazyState(before.state, lambda name: _wide(before.state[name]), like(before.state))
        moved = transform.apply_lazily(wide) if is_large(before.state) else transform.apply(dict(wide))
    if resolved.runnable is not None:
        generator = generator or torch.Generator().manual_seed(0)
        found = output_difference(resolved.runnable, before.state, moved, generator)
        if not found.same:
            apart = rounding_difference(resolved.runnable, before.state, generator)
            if found.within_rounding(apart):
                raise InputError(
                    f"the network's outputs depend on rounding: they change by {apart:.1e} relative where each weight changes "
                    f"by one part in {1 / NUDGE:.0e}, so that no result can be checked; nothing was written"
                )
            raise WorkError(
                f"the result does not compute the same function (outputs differ by {found.relative:.2e} relative, "
                f"{TOLERANCE:.0e} allowed): the spec ({resolved.source}) is wrong; nothing was written"
            )
        proof = f"outputs compared in float64 on {found.inputs} random batches{found.note}: {found.relative:.1e} relative"
        told = resolved.runnable.assumptions
        return {
            "max_output_difference": found.absolute,
            "proof": proof,
            "verified": not told,
            "assumptions": told,
        }
    if not transform.scales:
        undo = transform.inverse()
        back = undo.apply_lazily(moved) if is_large(before.state) else undo.apply(moved)
        if not all(equal(back[name], tensor) for name, tensor in before.state.items()):
            raise WorkError("the permutation could not be inverted bit for bit; nothing was written")
    unknown = {"max_output_difference": None, "max_output_difference_reason": NO_CODE}
    if not transform.scales and all(equal(moved[name], t) for name, t in before.state.items()):
        return {**unknown, "proof": "its tensors are unchanged", "verified": True, "assumptions": []}
    how = "a relabelling and scaling" if transform.scales else "a permutation, inverted bit for bit"
    return {
        **unknown,
        "proof": f"{how}; {resolved.evidence}",
        "verified": not resolved.assumptions,
        "assumptions": list(resolved.assumptions),
    }


def _left_out(found: Checkpoint) -> list[str]:
    """Entries beside the weights that are not written, since their tensors follow the old unit order."""
    entries = [] if found.container is None else list(found.container.left_out)
    return entries if found.folder is None else [*entries, *found.folder.left_out]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _groups(spec: PermutationSpec, match: Match) -> list[dict[str, Any]]:
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
        return no_groups(spec)
    if all(equal(a[name].to(b[name].dtype), b[name]) for name in b):
        return "A and B are the same network"
    return "the units of B are in the order of A already: no permutation brings the two closer"


def no_groups(spec: PermutationSpec) -> str:
    """Why a spec has no groups, from the first things that are frozen."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(spec.frozen.items())[:3])
    return f"no group of units may move{': ' + reasons if reasons else ''}"


def peak_memory() -> dict[str, Any]:
    """The process's peak resident memory in bytes, torch itself included."""
    try:
        import resource
    except ImportError:
        return {"peak_memory_bytes": None, "peak_memory_bytes_reason": "this system does not measure it"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
