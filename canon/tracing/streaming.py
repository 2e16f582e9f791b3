"""Run a network's graph with one tensor of its state in memory at a time.

Each is fetched when an operation wants it and freed when that is done. In the backward pass it is fetched again:
autograd is not left to keep it.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Entries that are multiplied at once.
PIECE = 2**20
# Entries of a tensor below which the allocator is good enough.
SMALL = 2**14
# Entries that pass before free memory is given back.
TRIM = 2**24


def wide(value: Any) -> Any:
    """A tensor in float64, or complex128; anything else as it is."""
    if isinstance(value, Tensor) and value.is_complex():
        return value.to(torch.complex128)
    if isinstance(value, Tensor) and value.dtype.is_floating_point and value.dtype.itemsize < 8:
        return value.double()
    return value


def _give_back() -> None:
    """Hand memory that is free back to the system, where the C library can."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class TensorPool:
    """Reusable memory for float64 tensors, released when no view of it is left.

    Left to the allocator, the small results of operations would settle in the gaps that large tensors leave.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray[Any, Any], weakref.ref[Any] | None]] = []
        self._passed = 0

    def wide(self, value: Tensor) -> tuple[Tensor, weakref.ref[Any] | None]:
        """`value` in float64, and a reference that lives as long as its memory is looked at; None where it is small."""
        if not value.is_floating_point() or value.numel() < SMALL:
            return wide(value), None
        count = value.numel()
        self._passed += count
        if self._passed > TRIM:
            self._passed = 0
            _give_back()
        free = [n for n, (_, user) in enumerate(self._blocks) if user is None or user() is None]
        fitting = [n for n in free if len(self._blocks[n][0]) >= count]
        if fitting:
            place = min(fitting, key=lambda n: len(self._blocks[n][0]))
        else:
            # a larger block takes the place of one that is not in use
            for n in reversed(free[:1]):
                del self._blocks[n]
            place = len(self._blocks)
            self._blocks.append((np.empty(count, np.float64), None))
        block = self._blocks[place][0]
        view = block[:count]
        user = weakref.ref(view)
        self._blocks[place] = block, user
        return torch.from_numpy(view).view(value.shape).copy_(value), user


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor of the state that is fetched on use."""

    name: str


class Streamed(torch.fx.Interpreter):
    """Runs a graph some of whose arguments are `DeferredTensor`."""

    def __init__(self, graph: torch.fx.GraphModule, fetch: Callable[[str], Tensor]) -> None:
        super().__init__(graph)
        self._fetch = fetch

    def fetch_args_kwargs_from_env(self, n: torch.fx.Node) -> Any:
        found = super().fetch_args_kwargs_from_env(n)
        return torch.fx.node.map_aggregate(
            found, lambda x: self._fetch(x.name) if isinstance(x, DeferredTensor) else x
        )


class GradientProbe:
    """Find the tensors that the outputs depend on, in one backward pass that stores no weights.

    `fetch` gives a tensor of `state` in float64, as the graph wants it; `relevant` holds, after the backward pass, the
    names of those that were fetched with `tracked` and whose gradient times value exceeds `threshold` somewhere.
    """

    def __init__(self, state: Mapping[str, Tensor], threshold: float, room: TensorPool) -> None:
        self.relevant: set[str] = set()
        self.anchor = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self._state, self._threshold, self._room = state, threshold, room
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}

    def fetch(self, name: str, tracked: bool) -> Tensor:
        value, user = self._room.wide(self._state[name])
        if user is not None:
            self._known[value.data_ptr()] = user, name
        if not (tracked and value.is_floating_point()):
            return value
        recorded: Tensor = _RecordGradient.apply(self.anchor, self, name, value)
        return recorded

    def note(self, name: str, gradient: Tensor) -> None:
        pairs = zip(gradient.flatten().split(PIECE), self._state[name].flatten().split(PIECE), strict=True)
        if any(float((one * other).abs().max()) > self._threshold for one, other in pairs if one.numel()):
            self.relevant.add(name)

    def saving(self) -> Any:
        """A context in which autograd keeps the names of weights in their place."""

        def pack(saved: Tensor) -> Any:
            user, name = self._known.get(saved.untyped_storage().data_ptr(), (None, ""))
            if user is None or user() is None:  # another tensor, at the address of one that was freed
                return saved
            return name, saved.size(), saved.stride(), saved.storage_offset()

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            name, size, stride, offset = kept
            return self._room.wide(self._state[name])[0].as_strided(size, stride, offset)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _RecordGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, probe: GradientProbe, name: str, value: Tensor) -> Tensor:
        ctx.probe, ctx.name = probe, name
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.probe.note(ctx.name, gradients[0])
        return None, None, None, None
