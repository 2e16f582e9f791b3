"""Are two networks the same function? Asked of the outputs, in float64, on random inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from canon.errors import WorkError
from canon.resolve import Runnable

TOLERANCE = 1e-9  # relative, in float64


@dataclass(frozen=True)
class Difference:
    """The largest difference of two networks' outputs, absolute and relative to the largest output."""

    absolute: float
    relative: float
    inputs: int

    @property
    def same(self) -> bool:
        return self.relative <= TOLERANCE


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
    among the values of the example. Raises `WorkError` where the outputs are not finite.
    """
    module = copy.deepcopy(runnable.module).double()
    _evaluation(module)
    absolute, largest = 0.0, 0.0
    for _ in range(draws):
        inputs = tuple(_draw(example, generator) for example in runnable.inputs)
        outputs = [_outputs(module, state, inputs) for state in (first, second)]
        for a, b in zip(*outputs, strict=True):
            if not (a.isfinite().all() and b.isfinite().all()):
                raise WorkError(
                    "the network's outputs on random inputs are not finite; nothing can be compared"
                )
            if a.numel():
                absolute = max(absolute, (a - b).abs().max().item())
                largest = max(largest, a.abs().max().item())
    relative = absolute / largest if largest else absolute
    return Difference(absolute, relative, draws)


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


def _outputs(module: nn.Module, state: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> list[Tensor]:
    wide = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    leaves = list(_leaves(functional_call(module, wide, inputs)))
    found = [(torch.view_as_real(t) if t.is_complex() else t).double() for t in leaves]
    if not found:
        raise WorkError("the network returned no tensor; nothing can be compared")
    return found


def _leaves(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _leaves(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _leaves(value)
