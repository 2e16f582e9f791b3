"""Record the ATen operations of one forward pass, without torch.export.

`torch.export` imports torch._dynamo and sympy, which takes longer than the import of torch. Functions that are only a
sequence of operations, as those of `canon.models.families`, need neither: a dispatch mode at torch's key for tracing before
autograd sees the operations that the exported graph holds.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class NotRecordable(RuntimeError):
    """The forward pass is more than a sequence of operations on its arguments."""


def record(
    module: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> tuple[torch.fx.GraphModule, int]:
    """The graph of `module(*inputs)`, and how many outputs it has.

    Args:
        module: called once, with the tensors in `state`, whose values do not matter.
        state: the module's parameters and buffers, each once. They are the first arguments of the graph, in this order.
        inputs: tensors, the arguments that follow.

    Returns:
        The graph, which returns a tuple of tensors, and how many these are. The metadata `val` of each operation is its
        result on the meta device.

    Raises:
        NotRecordable: an operation writes in place, returns something other than tensors, or reads a constant tensor.
    """
    recorder = _Recorder()
    for name, tensor in [*state.items(), *((f"input_{n}", x) for n, x in enumerate(inputs))]:
        recorder.argument(name, tensor)
    with torch.no_grad(), enable_python_dispatcher(), recorder:
        found = module(*inputs)
    outputs = [x for x in pytree.tree_leaves(found) if isinstance(x, Tensor)]
    recorder.graph.output(tuple(recorder.node_of(x) for x in outputs))
    recorder.graph.eliminate_dead_code()
    return torch.fx.GraphModule(nn.Module(), recorder.graph), len(outputs)


class _Recorder(ProxyTorchDispatchMode):
    """Write each operation as a node of `graph`; torch admits only its own classes of modes before autograd."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self.graph = torch.fx.Graph()
        self._nodes: dict[int, torch.fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no other tensor has the id of one that is known

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch would import torch._dynamo to turn it off here

    def __enter__(self) -> _Recorder:
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(self, *error: Any) -> None:
        TorchDispatchMode.__exit__(self, *error)

    def argument(self, name: str, tensor: Tensor) -> None:
        self._know(tensor, self.graph.placeholder("_" + re.sub(r"\W", "_", name)))

    def node_of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            raise NotRecordable("a constant tensor")
        return self._nodes[id(value)]

    def _know(self, tensor: Tensor, node: torch.fx.Node) -> None:
        node.meta["val"] = torch.empty_like(tensor, device="meta")
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation._schema.is_mutable:
            raise NotRecordable(f"{operation} writes in place")
        given = pytree.tree_map(self.node_of, (tuple(args), kwargs or {}))
        out = operation(*args, **(kwargs or {}))
        node = self.graph.call_function(operation, *given)
        if isinstance(out, Tensor):
            self._know(out, node)
        elif isinstance(out, list | tuple) and all(isinstance(x, Tensor) for x in out):
            for number, part in enumerate(out):
                self._know(part, self.graph.call_function(operator.getitem, (node, number)))
            node.meta["val"] = tuple(self._nodes[id(part)].meta["val"] for part in out)
        else:
            raise NotRecordable(f"{operation} returns {type(out).__name__}")
        return out
