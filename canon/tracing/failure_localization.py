"""Find the operation that breaks a group that is not a symmetry.

A relabelling that every operation so far agrees with leaves the entries of each intermediate result as
they were, in another order, and with them the sums of their powers. The first result of which that is
not true is where two things met that did not move alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from canon.tracing.exported_graph import Program, label
from canon.tracing.streaming import Streamed, wide

TOLERANCE = 1e-9


def breaking_operation(
    program: Program, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> str | None:
    """The first operation whose result holds other entries after than before, and its module; or None."""
    first, second = (_power_sums_of_results(program, state) for state in (before, after))
    for node, sums in first.items():
        if not torch.allclose(second[node], sums, rtol=0.0, atol=TOLERANCE, equal_nan=True):
            return label(node)
    return None


def _power_sums_of_results(program: Program, state: Mapping[str, Tensor]) -> dict[torch.fx.Node, Tensor]:
    interpreter = _PowerSumInterpreter(program.graph, lambda name: wide(state[name]))
    with torch.no_grad():
        interpreter.run(*program.arguments)
    return interpreter.sums


class _PowerSumInterpreter(Streamed):
    """Runs a graph and keeps the power sums of every result, relative to the size of its entries."""

    def __init__(self, graph: torch.fx.GraphModule, fetch: Callable[[str], Tensor]) -> None:
        super().__init__(graph, fetch)
        self.sums: dict[torch.fx.Node, Tensor] = {}

    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if node.op == "call_function":
            tensors = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
            self.sums[node] = torch.stack([_power_sums(t) for t in tensors]) if tensors else torch.zeros(0)
        return result


def _power_sums(tensor: Tensor) -> Tensor:
    # Masks hold infinities, which stay what they are.
    x = tensor.double().nan_to_num(0.0, 0.0, 0.0)
    size = x.square().mean().sqrt().clamp(min=1e-300) if x.numel() else 1.0
    x = x / size
    sums = [x.mean(), x.abs().mean(), x.pow(3).mean(), torch.as_tensor(size).double()]
    return torch.stack([*sums[:3], sums[3].log()])
