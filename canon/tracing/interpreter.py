"""Interpret a network's graph on tensors annotated with the structure of their axes.

Handlers read shapes. These are known from the export, so that nothing is computed; where they depend on numbers
(batches of any size, rows that a mask selects) the operations are run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.tracing.decomposition import decompose
from canon.tracing.exported_graph import does_not_run, module_of
from canon.tracing.operations import HANDLERS, MOVES, Context, Traced, pointwise, unknown


class Interpreter(torch.fx.Interpreter):
    """Each operation gives its value, or one of its shape, and, by its handler, the axes of its results."""

    def __init__(self, graph: torch.fx.GraphModule, context: Context, known: bool, within: str = "") -> None:
        super().__init__(graph)
        self.extra_traceback = False  # errors stay the one line that they are
        self.context = context
        self._known = known  # shapes of all results
        self._within = within  # the operation that the graph computes, empty for a network

    def run_node(self, node: torch.fx.Node) -> Any:
        if node.op == "call_function":
            with torch.no_grad():
                return self._call(node)
        result = super().run_node(node)
        if node.op == "get_attr" and isinstance(result, Tensor):
            return Traced(result, [*self.context.fixed(result.shape, "a constant")], False)
        return result

    def _call(self, node: torch.fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        plain = torch.fx.node.map_aggregate((args, kwargs), lambda x: x.value if isinstance(x, Traced) else x)
        if node.target is getattr or not hasattr(node.target, "_schema"):
            target: Any = node.target
            if target.__name__ == "getitem" and not isinstance(args[0], Traced):
                return target(*args, **kwargs)
            return self._wrap(_computed(target, *plain), unknown, SimpleNamespace(x=args), args)
        operation: Any = node.target
        schema = operation._schema
        out = node.meta["val"] if self._known else _computed(operation, *plain)
        name = schema.name.partition("::")[2]
        name = name.rstrip("_") if not name.startswith("__") else name
        self.context.name = name
        module = module_of(node)
        self.context.where = f"{name} in {module}" if module else name
        if self._within:
            self.context.where = f"{name} of {self._within}"
        given = {a.name: (a.default_value if a.has_default_value() else None) for a in schema.arguments}
        given |= {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | kwargs
        handler = HANDLERS.get(name)
        if handler is None and torch.Tag.pointwise in operation.tags:
            handler = pointwise
        if handler is None and not self._within:
            graph = decompose(operation, *plain)
            if graph is not None:
                inner = Interpreter(graph, self.context, shapes_known(graph), self.context.where)
                return inner.run(*tensors_in([*args, *kwargs.values()]))
        return self._wrap(out, handler or unknown, SimpleNamespace(**given), given.values())

    def _wrap(self, out: Any, handler: Any, arguments: SimpleNamespace, given: Any) -> Any:
        if not isinstance(out, Tensor) and not (
            isinstance(out, list | tuple) and any(isinstance(x, Tensor) for x in out)
        ):
            return out
        tensors = tensors_in(list(given))
        learned = any(x.learned for x in tensors)
        if self.context.name not in MOVES:
            self.context.read += [dim for x in tensors for dim in x.dims]
        zeros = self.context.name.startswith(("zeros", "new_zeros"))
        all_numbers = [x.numbers for x in tensors if x.numbers is not None]
        for one in all_numbers:
            one.read = True
        numbers = all_numbers[0] if all_numbers else None
        before = len(self.context.numbers)
        try:
            dims = handler(self.context, arguments, out)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # a call of a form that the rule does not foresee: nothing it touches may move
            dims = unknown(self.context, arguments, out)
        if isinstance(out, Tensor):
            self.context.seen.append(dims)
            if len(self.context.numbers) > before:
                return Traced(out, list(dims), learned, numbers=self.context.numbers[-1], direct=True)
            # a result of a learned tensor holds entries that were looked up, not indices
            kept = None if any(x.learned and x.numbers is None for x in tensors) else numbers
            direct = kept is not None and self._hands_on(arguments, tensors)
            if kept is not None and direct and self.context.name == "cat":
                kept.beside += all_numbers[1:]
            return Traced(out, list(dims), learned, zeros, kept, direct)
        wrapped = []
        for value, axes in zip(out, dims, strict=True):
            if not isinstance(value, Tensor):
                wrapped.append(value)
                continue
            if axes is None:
                axes = self.context.fixed(value.shape, "a second result")
            self.context.seen.append(axes)
            made = None if value.is_floating_point() else numbers
            if len(self.context.numbers) > before and not value.is_floating_point():
                made = self.context.numbers[-1]
            direct = made is not None and len(self.context.numbers) > before
            if self.context.name == "sort" and not wrapped and any(x.direct for x in tensors):
                direct = True  # the indices, sorted
            wrapped.append(Traced(value, list(axes), learned, numbers=made, direct=direct))
        return wrapped

    def _hands_on(self, arguments: SimpleNamespace, tensors: list[Traced]) -> bool:
        """Whether an operation only selects or reorders its input entries."""
        if self.context.name in ("index", "gather", "index_select"):
            return bool(arguments.self.direct)
        if self.context.name == "cat":
            return all(x.direct for x in tensors)
        return self.context.name in MOVES and any(x.direct for x in tensors)


def _computed(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on numbers; `InputError` where it does not take them."""
    try:
        return target(*args, **kwargs)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(does_not_run(error)) from error


def shapes_known(graph: torch.fx.GraphModule) -> bool:
    """Whether the export knows the shape of every result as numbers."""
    calls = [
        node for node in graph.graph.nodes if node.op == "call_function" and hasattr(node.target, "_schema")
    ]
    return all("val" in node.meta and _fixed(node.meta["val"]) for node in calls)


def _fixed(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_fixed(x) for x in value)
    if isinstance(value, Tensor):
        return all(type(size) is int for size in value.shape)
    return value is None or isinstance(value, bool | int | float)


def tensors_in(given: Any) -> list[Traced]:
    """The traced tensors in nested lists and tuples."""
    found: list[Traced] = []
    for x in given:
        if isinstance(x, Traced):
            found.append(x)
        elif isinstance(x, list | tuple):
            found += tensors_in(x)
    return found
