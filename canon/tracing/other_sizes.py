"""Freeze groups that are symmetries only at the sizes of the example inputs.

Where an axis is one long, as a feature map of one pixel or a sequence of one step, a view cannot be told from one that
lists the axes in another order, and the two differ at other sizes. There the module itself is run on inputs of other
sizes, if it takes them, before and after a random element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from canon.actions import permutation
from canon.spec import PermutationSpec
from canon.tracing.exported_graph import Program, operation, skeleton
from canon.tracing.numerical_check import find_culprits, freeze, lively_state
from canon.tracing.output_comparison import relative_difference
from canon.tracing.streaming import wide

_VIEWS = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
# Longer axes are halved, shorter ones doubled.
_LONG = 48
# How many times what rounding inside the module changes at the sizes of the example counts as a change.
_NOISE = 100
# Least relative change that counts: rounding to float32 may show at some sizes and not at others.
_LEAST = 1e-5


def freeze_by_size(
    spec: PermutationSpec, program: Program, module: nn.Module, args: Any, kwargs: Mapping[str, Any]
) -> PermutationSpec:
    """The spec without the groups that change the outputs on inputs of other sizes than the example's."""
    if not spec.groups or program.large or not _ambiguous(program):
        return spec
    working, state = skeleton(module).double().eval(), lively_state(program, spec, seed=0)
    element = permutation.random(spec, torch.Generator().manual_seed(0))
    own = _Change(spec, element, working, state, (tuple(args), dict(kwargs)))
    if own.reference is None:
        return spec
    # Modules round inside: at the sizes of the example that is all that changes.
    tolerance = max(_LEAST, _NOISE * own(spec.groups))
    for given in _resized(args, dict(kwargs)):
        for name in _changing(_Change(spec, element, working, state, given), tolerance):
            if name in spec.groups:
                shapes = ", ".join(
                    str(tuple(x.shape)) for x in pytree.tree_leaves(given) if isinstance(x, Tensor)
                )
                spec = freeze(
                    spec, name, f"it holds for the example inputs, not for inputs of shape {shapes}"
                )
    return spec


class _Change:
    """How far the outputs on some inputs change when the groups that are named are relabelled."""

    def __init__(
        self,
        spec: PermutationSpec,
        element: permutation.Permutation,
        module: nn.Module,
        state: Mapping[str, Tensor],
        given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        self.spec, self.element, self.module, self.state, self.given = spec, element, module, state, given
        self.reference = _run(module, state, *given)

    def __call__(self, names: Iterable[str]) -> float:
        chosen = permutation.identity(self.spec) | {name: self.element[name] for name in names}
        moved = {
            name: permutation.relabel(self.spec, chosen, name, tensor, 0)
            for name, tensor in self.state.items()
        }
        found = _run(self.module, moved, *self.given)
        if found is None or self.reference is None:
            return float("inf")
        return relative_difference(self.reference, found)


def _changing(change: _Change, tolerance: float) -> list[str]:
    """The groups that change the outputs, if any do."""
    if change.reference is None or change(change.spec.groups) <= tolerance:
        return []
    names = list(change.spec.groups)
    return list(find_culprits(names, change, tolerance)) or names


def _ambiguous(program: Program) -> bool:
    """Whether the graph looks at a tensor with an axis of one entry, that of the batch left out, in another shape."""
    for node in program.graph.graph.nodes:
        if node.op != "call_function" or operation(node) not in _VIEWS:
            continue
        given = next(iter(node.all_input_nodes), None)
        value = None if given is None else given.meta.get("val")
        if isinstance(value, Tensor) and value.dim() > 2 and any(size == 1 for size in value.shape[1:]):
            return True
    return False


def _resized(args: Any, kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The inputs with one axis, or the last two of pictures, in another size."""
    leaves, structure = pytree.tree_flatten((tuple(args), kwargs))
    rank = max((x.dim() for x in leaves if isinstance(x, Tensor)), default=0)
    for places in [*([(-2, -1)] if rank >= 4 else []), *[(n,) for n in range(1, rank)]]:
        found = [_with_sizes(x, places, rank) for x in leaves]
        if any(a is not b for a, b in zip(found, leaves, strict=True)):
            yield pytree.tree_unflatten(found, structure)


def _with_sizes(x: Any, places: tuple[int, ...], rank: int) -> Any:
    if not isinstance(x, Tensor) or x.dim() != rank or not x.numel():
        return x
    for place in places:
        size = x.shape[place]
        wanted = size // 2 if size >= _LONG else 2 * size
        index = torch.randint(size, (wanted,), generator=torch.Generator().manual_seed(wanted))
        x = x.index_select(place % rank, index.to(x.device))
    if x.is_floating_point():
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = noise.to(x)
    return x


def _run(
    module: nn.Module, state: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tensor] | None:
    """The outputs in float64; None where the module does not take these inputs."""
    args, kwargs = pytree.tree_map(wide, (args, kwargs))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            found = functional_call(
                module, {n: wide(t) for n, t in state.items()}, args, kwargs, tie_weights=False
            )
        except Exception:  # whatever a module does with inputs that it was not made for
            return None
    outputs = [x for x in pytree.tree_leaves(found) if isinstance(x, Tensor)]
    return outputs if outputs and all(x.isfinite().any() for x in outputs if x.numel()) else None
