"""An operation that has no handler, as a graph of simpler ones, where torch defines it so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree


def decompose(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.fx.GraphModule | None:
    """The graph that computes the operation `target` from the tensors among its arguments, in their order.

    Args:
        target: an ATen operation.
        args: its arguments; of tensors only shape and dtype are read.
        kwargs: its arguments by name.

    Returns:
        The graph, or None where torch has no definition by other operations.
    """
    leaves, structure = pytree.tree_flatten((args, kwargs))
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def call(*tensors: Tensor) -> Any:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        own_args, own_kwargs = pytree.tree_unflatten(given, structure)
        return target(*own_args, **own_kwargs)

    examples = [torch.empty(tuple(leaves[n].shape), dtype=leaves[n].dtype) for n in places]
    own = {target: decomposition_table[target]} if target in decomposition_table else {}
    try:
        graph = make_fx(functionalize(call), decomposition_table=own, tracing_mode="fake")(*examples)
    except Exception:  # torch's tracers fail in many ways; what has no definition is left as unknown
        return None
    return None if any(node.target is target for node in graph.graph.nodes) else graph
