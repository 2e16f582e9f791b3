"""Find weights that differ between two networks but do not affect the outputs on the random inputs.

Rows of an embedding that no input names, positions behind the last, units that never respond, experts that no token
reaches: networks that differ there compute the same on these inputs and need not on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from canon.equivalence.outputs import (
    DRAWS,
    draw_inputs,
    leaves_of,
    put_into_evaluation,
    widened_state,
)
from canon.errors import InputError
from canon.models.loading import Runnable, call
from canon.tracing.exported_graph import skeleton
from canon.tracing.output_comparison import real_view, typical_size

# Slope times size of an entry, relative to the outputs, below which nothing is seen of it.
SEEN = 1e-9


def unreached(
    runnable: Runnable, a: Mapping[str, Tensor], b: Mapping[str, Tensor], generator: torch.Generator
) -> list[str]:
    """The tensors in which `a` and `b` differ in entries on which no output depends, on the inputs of `output_difference`.

    `generator` is in the state in which that one was given it. Tensors that no operation reads do not count.
    """
    idle = _idle(runnable)
    differ = {
        name: a[name].to(torch.promote_types(a[name].dtype, b[name].dtype)) != b[name]
        for name in a
        if name not in idle
        and not name.endswith("num_batches_tracked")
        and (a[name].dim() or a[name].is_floating_point())
    }
    differ = {name: where for name, where in differ.items() if where.any()}
    if not differ:
        return []
    module = skeleton(runnable.module).double()
    put_into_evaluation(module)
    inputs = [draw_inputs(runnable, generator) for _ in range(DRAWS)]
    sizes = {
        name: torch.maximum((a[name].double() - b[name].double()).abs(), _rms(a[name]))
        for name in differ
        if a[name].is_floating_point()
    }
    try:
        slopes = [_slopes(module, state, inputs, generator) for state in (a, b)]
    except (InputError, RuntimeError):  # an operation without a slope: nothing is known
        return list(differ)
    twins = _twins(runnable.module, differ)

    def hidden(name: str) -> bool:
        if name not in sizes:
            return True
        for found in slopes:
            seen = torch.stack([found[twin] * sizes[name] for twin in twins[name] if twin in found]).amax(0)
            if bool((differ[name] & (seen <= SEEN)).any()):
                return True
        return False

    return [name for name in differ if hidden(name)]


def _idle(runnable: Runnable) -> set[str]:
    """Tensors that no operation reads, where torch.export can tell."""
    try:
        program = runnable.program
    except InputError:
        return set()
    used = program.used
    return {name for name, (identity, _) in program.state_identities.items() if identity not in used}


def _twins(module: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """For each name all that are tied to it, itself included."""
    held = module.state_dict(keep_vars=True)
    return {name: [other for other in held if held[other] is held.get(name)] or [name] for name in names}


def _rms(tensor: Tensor) -> Tensor:
    return tensor.double().square().mean().sqrt()


def _slopes(
    module: nn.Module,
    state: Mapping[str, Tensor],
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The largest slope of a random sum of the outputs, each divided by its size, by each entry of the state."""
    wide = {
        name: t.detach().requires_grad_(t.is_floating_point()) for name, t in widened_state(state).items()
    }
    tracked = {name: t for name, t in wide.items() if t.requires_grad}
    slopes = {name: torch.zeros_like(t) for name, t in tracked.items()}
    for positional, named in inputs:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            leaves = [t for t in leaves_of(call(module, wide, positional, named)) if t.requires_grad]
            parts = [_probed(leaf, generator) for leaf in leaves]
            if not parts:
                continue
            found = torch.autograd.grad(torch.stack(parts).sum(), list(tracked.values()), allow_unused=True)
        for name, slope in zip(tracked, found, strict=True):
            if slope is not None:
                slopes[name] = torch.maximum(slopes[name], slope.abs().nan_to_num(0.0))
    return slopes


def _probed(output: Tensor, generator: torch.Generator) -> Tensor:
    real = real_view(output)
    where = real.isfinite()
    weights = torch.randn(real.shape, generator=generator, dtype=torch.float64)
    sizes = real.detach().abs().clamp(min=max(typical_size([real.detach()]), 1e-300))
    return (real / sizes * weights)[where].sum()
