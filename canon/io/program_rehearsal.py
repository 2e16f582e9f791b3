"""A run of an exported program by shapes alone, before it is run on numbers.

A program from elsewhere can call operations with arguments that they do not take, claim results of other shapes than
its operations give, and ask for any amount of memory. No tensor of this run has memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from canon.validation import Invalid, shown

SPARE_BYTES = 1 << 29
"""Results of operations may take this many bytes in float64 beyond sixteen times the size of the file."""
MAX_RESULTS = 100_000
"""Tensors that one operation may give."""

_UNKNOWN = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)
"""What says that shapes depend on numbers, or that torch has no rule for those of an operation."""


def rehearse(program: ExportedProgram, size: int) -> None:
    """Run `program` on its own example inputs, by shapes alone; `size` is that of its file in bytes.

    The run ends early where a shape depends on numbers. `canon.validation.Invalid` names the operation that fails,
    gives another shape than the program says, or takes the memory beyond the limit.
    """
    if program.example_inputs is None:
        return
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    given = iter(pytree.tree_leaves(program.example_inputs))
    state = {**program.state_dict, **program.constants}
    arguments = [
        next(given, None) if spec.kind is InputKind.USER_INPUT else state.get(spec.target or "")
        for spec in program.graph_signature.input_specs
    ]
    interpreter = _Shapes(program.graph_module)
    try:
        with torch.no_grad(), fake:
            made = [fake.from_tensor(_plain(x)) if isinstance(x, Tensor) else x for x in arguments]
            with _Memory(16 * size + SPARE_BYTES):
                interpreter.run(*made)
    except Invalid:
        raise
    except _UNKNOWN:
        return
    except Exception as error:  # operations fail in many ways
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Invalid(f"the operation {interpreter.at} does not run: {shown(first, 200)}") from None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor


class _Shapes(torch.fx.Interpreter):
    """Each operation must give results of the shapes that the program says."""

    at = "of no name"

    def run_node(self, node: torch.fx.Node) -> Any:
        if node.op == "call_function":
            self.at = shown(f"{getattr(node.target, '__name__', node.target)} ({node.name})", 100)
        result = super().run_node(node)
        said = node.meta.get("val")
        if isinstance(result, Tensor) and isinstance(said, Tensor) and not _agree(result, said):
            raise Invalid(
                f"the result of {self.at} has the shape {tuple(result.shape)}, the program says {tuple(said.shape)}"
            )
        return result


def _agree(result: Tensor, said: Tensor) -> bool:
    """Whether the shapes are the same, as far as they are numbers."""
    return result.dim() == said.dim() and all(
        type(theirs) is not int or type(ours) is not int or ours == theirs
        for ours, theirs in zip(result.shape, said.shape, strict=True)
    )


class _Memory(TorchDispatchMode):
    """Counts the bytes of all results that are alive, each in float64; `Invalid` where they exceed `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self._held = limit, 0
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        many = any("[]" in str(one.type) for one in func._schema.returns)
        if many and any(size > MAX_RESULTS for tensor in given for size in tensor.shape):
            raise Invalid(f"the operation {func} gives more than {MAX_RESULTS} tensors")
        out = func(*args, **kwargs)
        own = {StorageWeakRef(tensor.untyped_storage()) for tensor in given}
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key = StorageWeakRef(storage)
            if key not in own and key not in self._alive:
                widened = max(1, 8 // tensor.element_size()) if tensor.is_floating_point() else 1
                self._alive[key] = int(storage.nbytes()) * widened
                self._held += self._alive[key]
        if self._held > self.limit:
            self._alive = {key: taken for key, taken in self._alive.items() if not key.expired()}
            self._held = sum(self._alive.values())
        if self._held > self.limit:
            raise Invalid(
                f"the results of its operations take {self._held} bytes of memory, more than the limit of {self.limit}; "
                "export it on fewer example inputs"
            )
        return out


def _tensors(found: Any) -> Iterator[Tensor]:
    return (x for x in pytree.tree_leaves(found) if isinstance(x, Tensor))
