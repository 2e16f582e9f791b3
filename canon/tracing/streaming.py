"""Running a network's graph with one tensor of its state in memory at a time.

Each is fetched when an operation wants it and let go when that is done. In the backward pass it is fetched again:
autograd is not left to keep it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Entries that are multiplied at once.
PIECE = 2**22


@dataclass(frozen=True)
class Pending:
    """A tensor of the state that is fetched when it is wanted."""

    name: str


class Streamed(torch.fx.Interpreter):
    """Runs a graph some of whose arguments are `Pending`."""

    def __init__(self, graph: torch.fx.GraphModule, fetch: Callable[[str], Tensor]) -> None:
        super().__init__(graph)
        self._fetch = fetch

    def fetch_args_kwargs_from_env(self, n: torch.fx.Node) -> Any:
        found = super().fetch_args_kwargs_from_env(n)
        return torch.fx.node.map_aggregate(
            found, lambda x: self._fetch(x.name) if isinstance(x, Pending) else x
        )


class Hearing:
    """Which tensors of a state the outputs depend on, found in one backward pass that keeps no weight.

    `fetch` stands in the place of the one given; `heard` holds, after the backward pass, the names of those whose
    slope times value exceeds `threshold` somewhere.
    """

    def __init__(self, fetch: Callable[[str], Tensor], threshold: float) -> None:
        self.heard: set[str] = set()
        self.anchor = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self._given, self._threshold = fetch, threshold
        self._alive: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def fetch(self, name: str) -> Tensor:
        value = self._given(name)
        if not value.is_floating_point():
            return value
        listened: Tensor = _Listen.apply(self.anchor, self, name, value)
        self._alive[listened.untyped_storage().data_ptr()] = weakref.ref(listened), name
        return listened

    def note(self, name: str, slope: Tensor) -> None:
        pairs = zip(slope.flatten().split(PIECE), self._given(name).flatten().split(PIECE), strict=True)
        if any(float((one * other).abs().max()) > self._threshold for one, other in pairs if one.numel()):
            self.heard.add(name)

    def saving(self) -> Any:
        """A context in which autograd keeps the names of weights in their place."""

        def pack(saved: Tensor) -> Any:
            known = self._alive.get(saved.untyped_storage().data_ptr())
            if known is None or known[0]() is None:  # a storage that was used again
                return saved
            return known[1], saved.size(), saved.stride(), saved.storage_offset()

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            name, size, stride, offset = kept
            return self._given(name).as_strided(size, stride, offset)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _Listen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, hearing: Hearing, name: str, value: Tensor) -> Tensor:
        ctx.hearing, ctx.name = hearing, name
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        ctx.hearing.note(ctx.name, slopes[0])
        return None, None, None, None
