"""Compare the outputs of two networks in float64 on random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError, WorkError
from canon.models.loading import Runnable, call, is_large, twins_of
from canon.tracing.exported_graph import skeleton
from canon.tracing.output_comparison import real_view, relative_difference
from canon.tracing.streaming import wide
from canon.types import LazyState, like

TOLERANCE = 1e-9  # relative, in float64
DRAWS = 3  # random batches
NUDGE = 2.0**-51  # relative, of each weight: what sums in another order differ by
AMPLIFIED = 100.0  # times that, at most, a relabelling moves outputs: it rounds more than weights
NO_CODE = "the network's code is not known; give --model or a .pt2 file to compare outputs"


@dataclass(frozen=True)
class Difference:
    """The largest difference of two networks' outputs, absolute and relative to the size of like entries.

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

    def within_rounding(self, apart: float) -> bool:
        """Whether it is no more than rounding explains that moves outputs by `apart` (`rounding_difference`)."""
        return self.relative <= AMPLIFIED * apart

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
    draws: int = DRAWS,
) -> Difference:
    """Run both networks in evaluation mode on `draws` random batches.

    Weights and inputs are float64, inputs shaped like the example inputs; integer inputs are drawn
    among the values of the example. Of large networks the graph is run, on one batch, with one tensor in float64 at a
    time. Random numbers in forward are the same for both. Raises `WorkError`
    where the outputs are not finite, or where two runs of one network on one input differ.
    """
    given = [draw_inputs(runnable, generator) for _ in range(draws)]
    if is_large(first) and (streamed := _widened(runnable, first, second, given[:1])) is not None:
        return Difference(*streamed, 1, widened=True)
    module = skeleton(runnable.module).double()
    put_into_evaluation(module)
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


def rounding_difference(runnable: Runnable, state: Mapping[str, Tensor], generator: torch.Generator) -> float:
    """How far outputs move, relative to their size, where every weight moves by the rounding of float64.

    Where it is large, outputs cannot show whether two networks compute the same: huge weights, for one, leave nothing but
    rounding behind an attention or a norm.
    """

    def nudged(name: str) -> Tensor:
        value = state[name]
        if not value.is_floating_point():
            return value
        draw = torch.Generator().manual_seed(numbers[name])
        signs = 2 * torch.randint(2, value.shape, generator=draw, dtype=torch.int8) - 1
        return wide(value) * (1 + NUDGE * signs.double())

    numbers = {name: number for number, name in enumerate(state)}
    moved = LazyState(state, nudged, like(state))
    return output_difference(
        runnable, state, moved if is_large(state) else dict(moved), generator, draws=1
    ).relative


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
    return _largest([[[_real(t) for t in run.run(state)] for state in states] for run in runs])


def _largest(pairs: list[list[list[Tensor]]]) -> tuple[float, float]:
    """The largest difference over pairs of outputs, absolute and relative to the size of like entries."""
    absolute, relative = 0.0, 0.0
    for first, second in pairs:
        for a, b in zip(first, second, strict=True):
            known = a.isfinite() & b.isfinite()
            if (a.isnan() | b.isnan()).any() or (a.numel() and not known.any()):
                raise WorkError(
                    "the network's outputs on random inputs are not finite; nothing can be compared"
                )
            if known.any():
                absolute = max(absolute, (a - b)[known].abs().max().item())
        relative = max(relative, relative_difference(first, second))
    return absolute, relative


def draw_inputs(runnable: Runnable, generator: torch.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = tuple(_draw(example, generator) for example in runnable.inputs)
    return inputs, {name: _draw(example, generator) for name, example in runnable.keywords.items()}


def put_into_evaluation(module: nn.Module) -> None:
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
        leaves = leaves_of(call(module, widened_state(state), inputs, keywords))
    found = [_real(t) for t in leaves]
    if not found:
        raise WorkError("the network returned no tensor; nothing can be compared")
    return found


def _real(tensor: Tensor) -> Tensor:
    return real_view(tensor).double()


def widened_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: wide(tensor) for name, tensor in state.items()}


def leaves_of(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from leaves_of(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from leaves_of(value)
