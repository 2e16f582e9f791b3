"""Are two networks the same function? Asked of the outputs, in float64, on random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from canon.actions.canonical_form import TooRegular, canonicalize
from canon.actions.scaling import balance
from canon.actions.transform import Transform
from canon.errors import InputError, WorkError
from canon.io.dtypes import computable
from canon.matching.signed_weight_matching import match_signed
from canon.models.loading import Runnable, call, is_large, twins_of
from canon.models.spec_resolution import SpecSource
from canon.spec import PermutationSpec
from canon.tracing.exported_graph import copy_module

TOLERANCE = 1e-9  # relative, in float64
NO_CODE = "the network's code is not known; give --model or a .pt2 file to compare outputs"


@dataclass(frozen=True)
class Difference:
    """The largest difference of two networks' outputs, absolute and relative to the largest output.

    `widened` where the module rounds to less than float64 inside, so that its graph was run with these
    roundings left out.
    """

    absolute: float
    relative: float
    inputs: int
    widened: bool = False

    @property
    def same(self) -> bool:
        return self.relative <= TOLERANCE

    @property
    def note(self) -> str:
        """What a report adds where the module's own roundings were left out."""
        return ", with the module's own roundings to narrower dtypes left out" if self.widened else ""


@torch.no_grad()
def output_difference(
    runnable: Runnable,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    generator: torch.Generator,
    draws: int = 3,
) -> Difference:
    """Run both networks in evaluation mode on `draws` random batches.

    Weights and inputs are float64, inputs shaped like the example inputs; integer inputs are drawn
    among the values of the example. Of large networks the graph is run, on one batch, with one tensor in float64 at a
    time. Random numbers in forward are the same for both. Raises `WorkError`
    where the outputs are not finite, or where two runs of one network on one input differ.
    """
    given = [_draw_inputs(runnable, generator) for _ in range(draws)]
    if is_large(first) and (streamed := _widened(runnable, first, second, given[:1])) is not None:
        return Difference(*streamed, 1, widened=True)
    module = _skeleton(runnable.module).double()
    _evaluation(module)
    try:
        pairs = [[_outputs(module, state, *inputs) for state in (first, second)] for inputs in given]
    except InputError:  # an operation that refuses float64, as grouped products of experts do
        if (widened := _widened(runnable, first, second, given)) is None:
            raise
        return Difference(*widened, draws, widened=True)
    absolute, relative = _largest(pairs)
    if relative <= TOLERANCE:
        return Difference(absolute, relative, draws)
    _check_repeatable(_outputs(module, first, *given[0]), pairs[0][0])
    widened = _widened(runnable, first, second, given)
    if widened is None or widened[1] >= relative:
        return Difference(absolute, relative, draws)
    return Difference(*widened, draws, widened=True)


def _check_repeatable(again: list[Tensor], before: list[Tensor]) -> None:
    _, apart = _largest([[again, before]])
    if apart > TOLERANCE:
        raise WorkError(
            f"the network is not a function of its input: two runs on the same input differ by {apart:.1e} relative "
            "(it keeps something between runs, or draws random numbers of its own); nothing can be compared"
        )


def _widened(
    runnable: Runnable,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    given: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> tuple[float, float] | None:
    """Absolute and relative difference of the networks' graphs with every cast to a narrow dtype left out.

    One tensor of a network is in float64 at a time. None where torch.export cannot follow the network.
    """
    try:
        program = runnable.program
    except InputError:
        return None
    states = [twins_of(runnable.module, state) for state in (first, second)]
    runs = [program.with_inputs(*inputs) for inputs in given]
    return _largest([[[t.double() for t in run.run(state)] for state in states] for run in runs])


def _largest(pairs: list[list[list[Tensor]]]) -> tuple[float, float]:
    """The largest difference over pairs of outputs, absolute and relative to the largest output."""
    absolute, largest = 0.0, 0.0
    for outputs in pairs:
        for a, b in zip(*outputs, strict=True):
            if not (a.isfinite().all() and b.isfinite().all()):
                raise WorkError(
                    "the network's outputs on random inputs are not finite; nothing can be compared"
                )
            if a.numel():
                absolute = max(absolute, (a - b).abs().max().item())
                largest = max(largest, a.abs().max().item())
    return absolute, absolute / largest if largest else absolute


def _draw_inputs(runnable: Runnable, generator: torch.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = tuple(_draw(example, generator) for example in runnable.inputs)
    return inputs, {name: _draw(example, generator) for name, example in runnable.keywords.items()}


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy without memory for parameters: every call brings its own."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in module.parameters()}
    return copy_module(module, empty)


def _evaluation(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # an exported program has one mode, the one it was exported in
        return


def _draw(example: Any, generator: torch.Generator) -> Any:
    if not isinstance(example, Tensor):
        return example
    if example.is_floating_point():
        return torch.randn(example.shape, dtype=torch.float64, generator=generator)
    if example.numel() == 0 or example.dtype == torch.bool:
        return example
    flat = example.reshape(-1)
    return flat[torch.randint(flat.numel(), example.shape, generator=generator)]


def _outputs(
    module: nn.Module, state: Mapping[str, Tensor], inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        leaves = _leaves(call(module, _wide(state), inputs, keywords))
    found = [(torch.view_as_real(t) if t.is_complex() else t).double() for t in leaves]
    if not found:
        raise WorkError("the network returned no tensor; nothing can be compared")
    return found


def _wide(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: t.to(torch.complex128) if t.is_complex() else t.double() if t.is_floating_point() else t
        for name, t in state.items()
    }


def _leaves(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _leaves(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _leaves(value)


def same_by_running(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], runnable: Runnable, generator: torch.Generator
) -> dict[str, Any]:
    """Whether `a` and `b` compute the same, from their outputs in float64.

    Weights that were rounded, once moved or scaled, compute the same only so far: where the outputs
    differ by no more than rounding to the coarsest of the files' dtypes explains, they do, and it says so.
    """
    found = output_difference(runnable, a, b, generator)
    proof = f"outputs on {found.inputs} random batches in float64{found.note}: relative difference {found.relative:.1e}"
    if found.same:
        proof = f"{proof} (tolerance {TOLERANCE:.0e})"
        return _verdict(True, proof, found.absolute, TOLERANCE, runnable.assumptions)
    dtype, allowed = _coarsest(a, b), rounding_tolerance(a, b)
    same = found.relative <= allowed
    note = f"{'is within' if same else 'exceeds'} the tolerance {allowed:.0e} of rounding to {dtype}"
    return _verdict(same, f"{proof} {note}{_mixed(a, b)}", found.absolute, allowed, runnable.assumptions)


def rounding_tolerance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """By how much outputs may differ, relative, where weights were rounded to the coarsest dtype.

    Errors of layers that follow one another add up like a random walk: with the root of their number.
    """
    layers = sum(tensor.dim() > 1 for tensor in a.values())
    return float(4 * _eps(_coarsest(a, b)) * max(layers, 1) ** 0.5)


def same_by_relabelling(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], resolved: SpecSource
) -> dict[str, Any]:
    """Whether `b` is a relabelling of `a`: finding one shows equivalence, finding none is inconclusive.

    `same` is then null. It is null, too, where a relabelling was found by groups that rest on assumptions
    of a spec or that nobody stated. The canonical orders are compared, which agree if there is a relabelling. Where
    they do not, scales are balanced and units matched: weights that then agree as far as the coarsest
    dtype of the files goes are one network, rounded twice.
    """
    if _equal(a, b):
        return _verdict(True, "the tensors are equal", 0.0, 0.0)
    try:
        alike = _equal(*(canonicalize(resolved.spec, state) for state in comparable(a, b)))
    except TooRegular:  # matching may still find one
        alike = False
    if alike:
        return _found(resolved, "B is a permutation of A, bit for bit", 0.0)
    dtype, difference = _coarsest(a, b), _matched_difference(resolved.spec, a, b)
    allowed = float(4 * _eps(dtype))
    if difference <= allowed:
        proof = f"B is a permutation and rescaling of A up to rounding to {dtype}: relative difference {difference:.1e}"
        return _found(resolved, f"{proof} (tolerance {allowed:.0e})", allowed)
    proof = f"no permutation by the known groups ({resolved.source}) takes A to B: relative difference of the weights "
    proof += f"{difference:.1e} exceeds the tolerance {allowed:.0e} of {dtype}{_mixed(a, b)}"
    proof = f"{proof}; give --model or .pt2 files to run both"
    return _verdict(None, proof, None, allowed, resolved.assumptions)


def _found(resolved: SpecSource, how: str, allowed: float) -> dict[str, Any]:
    """A relabelling was found: it shows as much as the groups are worth."""
    decided = True if resolved.stated or not resolved.assumptions else None
    return _verdict(decided, f"{how}; {resolved.evidence}", None, allowed, resolved.assumptions)


def _matched_difference(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest difference of a weight, relative to its tensor's largest, in one scale and order."""
    wide = [{n: t.double() if t.is_floating_point() else t for n, t in state.items()} for state in (a, b)]
    one, other = (balance(spec, state)[1] for state in wide)
    match = match_signed(spec, one, other)
    other = Transform(spec, match.permutation, match.scales).apply(other)
    worst = 0.0
    for name, tensor in one.items():
        if tensor.numel():
            size = max(float(tensor.double().abs().max()), torch.finfo(torch.float64).tiny)
            worst = max(worst, float((tensor.double() - other[name].double()).abs().max()) / size)
    return worst


def _coarsest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """The floating dtype of the files that keeps fewest digits."""
    dtypes = {t.dtype for state in (a, b) for t in state.values() if t.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    return str(coarsest).removeprefix("torch.")


def _eps(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).eps)


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


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    wide_a, wide_b = comparable(a, b)
    return all(torch.equal(wide_a[name], wide_b[name]) for name in wide_a)


def comparable(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both networks in one dtype for each tensor, at least float32; equal dtypes cost no copy."""
    wide_a, wide_b = {}, {}
    for name in b:
        dtype = torch.promote_types(_at_least_float32(a[name].dtype), _at_least_float32(b[name].dtype))
        wide_a[name], wide_b[name] = a[name].to(dtype), b[name].to(dtype)
    return wide_a, wide_b


def matchable(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """`comparable` for large networks: in their own dtypes, but for those that cannot compute."""
    wide = [{name: computable(tensor) for name, tensor in state.items()} for state in (a, b)]
    return wide[0], wide[1]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype
