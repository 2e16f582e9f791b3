"""A second device for machines without one: tensors that say they are on `second:0` and compute on the processor.

As on a real device, an operation on tensors of both devices fails, and nothing moves unless it is told to. Single
numbers may stand beside either, and rows may be picked by indices on the processor, as torch has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
PICKS = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Elsewhere(torch.Tensor):
    """A tensor of the second device; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __tensor_flatten__(
        self,
    ) -> tuple[list[str], None]:  # so that `Module.to` puts it in place of a parameter
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> Elsewhere:
        return Elsewhere(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Within the block `second:0` can be computed on. Skips the test where torch cannot be told of a device."""
    register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if register is None:
        pytest.skip("this torch knows no devices made in Python")
    if torch._C._get_privateuse1_backend_name() != NAME:
        module: Any = backend_registration._DummyBackendModule()
        module.get_amp_supported_dtype = lambda: [torch.bfloat16]
        register(NAME, module)
    with _Mode():
        yield torch.device(NAME, 0)


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """A real device: the same tests on a machine that has one (`pytest -m gpu`)."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield torch.device("cuda", 0)


another_device = pytest.mark.parametrize(
    "other",
    [pytest.param(second_device, id="second"), pytest.param(accelerator, id="cuda", marks=pytest.mark.gpu)],
)


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    elsewhere = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
    if elsewhere and here and func not in MOVES | PICKS:
        shapes = [tuple(tensor.shape) for tensor in here]
        raise RuntimeError(f"{func}: expected all tensors on one device; on the processor are {shapes}")
    asked = kwargs.get("device")
    there = bool(elsewhere) if asked is None else torch.device(asked).type == NAME
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    found = func(*inner_args, **inner_kwargs)
    if not there or func is torch.ops.aten.copy_.default:
        return args[0] if func is torch.ops.aten.copy_.default else found
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_outer, found))


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


def _outer(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) else value
