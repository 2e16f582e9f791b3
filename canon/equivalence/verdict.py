"""The verdict on two networks: same function, different, or undecided, with the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from canon.equivalence.outputs import NO_CODE, TOLERANCE, output_difference, rounding_difference
from canon.equivalence.unreached import unreached
from canon.equivalence.weights import agreement, coarsest, equal_tensors, same_entries
from canon.errors import InputError
from canon.models.loading import Runnable, is_large
from canon.models.spec_resolution import SpecSource

Resolve = Callable[[], SpecSource]


def same_by_running(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    runnable: Runnable,
    generator: torch.Generator,
    resolve: Resolve,
) -> dict[str, Any]:
    """Whether `a` and `b` compute the same, from their outputs in float64.

    Outputs that differ by more than rounding to the coarsest of the files' dtypes explains decide. Outputs that agree
    show as much as the inputs reach: where weights differ in entries that they do not reach, or outputs by what may be
    rounding, the weights have to agree too, in an order by the groups that `resolve` gives; else `same` is null.
    """
    again = torch.Generator().set_state(generator.get_state())  # the same inputs, to see what they reach
    found = output_difference(runnable, a, b, generator)
    proof = f"outputs on {found.inputs} random batches in float64{found.note}: relative difference {found.relative:.1e}"
    dtype, allowed = coarsest(a, b), rounding_tolerance(a, b)

    def verdict(same: bool | None, more: str, tolerance: float) -> dict[str, Any]:
        return _verdict(same, f"{proof}{more}", found.absolute, tolerance, runnable.assumptions)

    if not found.same and found.relative > allowed:
        apart = rounding_difference(runnable, a, again)
        if found.within_rounding(apart):
            return verdict(
                None, f", and outputs change by {apart:.1e} where weights change by rounding alone", allowed
            )
        note = f" exceeds the tolerance {allowed:.0e} of rounding to {dtype}{_mixed(a, b)}"
        return verdict(False, note, allowed)
    if found.same:
        exact = f" (tolerance {TOLERANCE:.0e})"
        hidden = [] if is_large(a) else unreached(runnable, a, b, again)
        if not hidden and not is_large(a):
            return verdict(True, exact, TOLERANCE)
        same, how = _weights(a, b, resolve)
        where = (
            f"entries of {', '.join(hidden[:3])} differ that these inputs do not reach, and "
            if hidden
            else ""
        )
        return (
            verdict(True, f"{exact}; {how}", TOLERANCE)
            if same
            else verdict(None, f"{exact}, but {where}{how}", TOLERANCE)
        )
    note = f" is within the tolerance {allowed:.0e} of rounding to {dtype}{_mixed(a, b)}"
    same, how = _weights(a, b, resolve)
    return verdict(True, f"{note}; {how}", allowed) if same else verdict(None, f"{note}, but {how}", allowed)


def _weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor], resolve: Resolve) -> tuple[bool, str]:
    """Whether the weights agree as well, by what is known of their groups, and how that is said."""
    try:
        spec = resolve().spec
    except InputError as error:
        return False, f"the groups are not known ({error})"
    if is_large(a):
        name = same_entries(spec, a, b)
        if name is None:
            return True, "every tensor has the same entries in the places that no group moves"
        return False, f"{name} has other entries"
    found = agreement(spec, a, b)
    if found.how is not None:
        return True, found.how
    return False, (
        "no permutation by the known groups takes A to B: the weights differ by up to "
        f"{found.difference:.1e} of their size, not by rounding to {coarsest(a, b)} alone"
    )


def rounding_tolerance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """By how much outputs may differ, relative, where weights were rounded to the coarsest dtype.

    Errors of layers that follow one another add up like a random walk: with the root of their number.
    """
    layers = sum(tensor.dim() > 1 for tensor in a.values())
    return float(4 * float(torch.finfo(getattr(torch, coarsest(a, b))).eps) * max(layers, 1) ** 0.5)


def same_by_relabelling(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], resolved: SpecSource
) -> dict[str, Any]:
    """Whether `b` is a relabelling of `a`: finding one shows equivalence, finding none is inconclusive.

    `same` is then null. It is null, too, where a relabelling was found by groups that rest on assumptions
    of a spec or that nobody stated.
    """
    if equal_tensors(a, b):
        return _verdict(True, "the tensors are equal", 0.0, 0.0)
    found = agreement(resolved.spec, a, b)
    if found.how is not None:
        # A match is as strong as the evidence for the groups.
        decided = True if resolved.stated or not resolved.assumptions else None
        # the verdict names the assumptions itself
        proof = found.how if decided and resolved.assumptions else f"{found.how}; {resolved.evidence}"
        return _verdict(decided, proof, None, found.tolerance, resolved.assumptions)
    dtype = coarsest(a, b)
    proof = (
        f"no permutation by the known groups ({resolved.source}) takes A to B: the weights differ by up to "
    )
    proof += f"{found.difference:.1e} of their size, not by rounding to {dtype} alone (tolerance {found.tolerance:.0e})"
    proof += _mixed(a, b)
    proof = f"{proof}; give --model or .pt2 files to run both"
    return _verdict(None, proof, None, found.tolerance, resolved.assumptions)


def _mixed(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    tensors = [tensor for state in (a, b) for tensor in state.values() if tensor.is_floating_point()]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    return f"; the files mix {' and '.join(dtypes)}, whose rounding differs" if len(dtypes) > 1 else ""


def _verdict(
    same: bool | None,
    proof: str,
    difference: float | None,
    tolerance: float,
    assumptions: Sequence[str] = (),
) -> dict[str, Any]:
    undecided = "undecided under these assumptions" if assumptions else "undecided"
    verdict = {True: "the same function", False: "different functions", None: undecided}[same]
    if same and assumptions:
        verdict += f", assuming {'; '.join(assumptions)}"
    result: dict[str, Any] = {
        "same": same,
        "verdict": verdict,
        "assumptions": list(assumptions),
        "proof": proof,
        "tolerance": tolerance,
        "max_output_difference": difference,
    }
    if difference is None:
        result["max_output_difference_reason"] = NO_CODE
    return result
