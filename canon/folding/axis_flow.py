"""Graph operations that preserve the last axis of their input."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from canon.tracing.exported_graph import operation


def entries(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def shape_of(node: Any) -> tuple[int, ...]:
    found = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(found.shape) if isinstance(found, Tensor) else ()


_SAME = {"clone", "contiguous", "alias", "detach", "dropout", "_to_copy", "to", "lift_fresh_copy"}
_VIEWS = {"view", "reshape", "_unsafe_view", "flatten", "unflatten"}


def keeps_shape(node: Node, given: Node) -> bool:
    """Whether the node returns `given` with every axis unchanged."""
    return (
        node.op == "call_function" and bool(node.args) and node.args[0] is given and operation(node) in _SAME
    )


def keeps_last_axis(node: Node, given: Node) -> bool:
    """Whether the node returns the entries of `given` with the last axis unchanged."""
    if node.op != "call_function" or not node.args or node.args[0] is not given:
        return False
    name, before, after = operation(node), shape_of(given), shape_of(node)
    if not before or not after or before[-1] != after[-1] or before[-1] == 1:
        return False
    if keeps_shape(node, given) or name in _VIEWS:
        return True
    rank, args = len(before), node.args
    if name == "transpose":
        return all(isinstance(d, int) and d % rank != rank - 1 for d in args[1:3])
    if name == "permute":
        return entries(args[1])[-1] % rank == rank - 1
    if name in ("select", "slice"):
        dim = args[1] if len(args) > 1 else 0
        return isinstance(dim, int) and dim % rank != rank - 1
    return False
