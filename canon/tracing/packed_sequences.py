"""Packed sequences in an export: computed as though all sequences of a batch were as long as the longest.

How many rows a packed batch has depends on the lengths, which torch.export cannot follow. The units of a recurrent layer
are the same whatever the lengths are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class _Steps(list[int]):
    """The sizes of the batch at each step, as `PackedSequence.batch_sizes` holds them."""

    device = torch.device("cpu")

    def size(self, dim: int = 0) -> int:
        return len(self)


@contextmanager
def packed_as_padded() -> Iterator[None]:
    """Within it, packing and unpacking sequences keeps every step of the padded batch."""
    functions: Any = torch._VF
    names = (*_LAYERS, "_pack_padded_sequence", "_pad_packed_sequence")
    before = {name: getattr(functions, name) for name in names}
    changed: dict[str, Callable[..., Any]] = {name: _layer(before[name]) for name in _LAYERS}
    changed |= {"_pack_padded_sequence": _pack, "_pad_packed_sequence": _pad}
    for name, function in changed.items():
        setattr(functions, name, function)
    try:
        yield
    finally:
        for name in names:
            delattr(functions, name)


def _pack(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, _Steps]:
    rows = input.transpose(0, 1) if batch_first else input
    return rows.flatten(0, 1), _Steps([rows.shape[1]] * rows.shape[0])


def _pad(
    data: Tensor, batch_sizes: _Steps, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    rows = data.unflatten(0, (len(batch_sizes), batch_sizes[0]))
    lengths = torch.full((batch_sizes[0],), len(batch_sizes), dtype=torch.int64)
    if total_length > len(batch_sizes):
        more = rows.new_full((total_length - len(rows), *rows.shape[1:]), padding_value)
        rows = torch.cat([rows, more])
    return rows.transpose(0, 1) if batch_first else rows, lengths


def _layer(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(data: Tensor, sizes: Any, *rest: Any) -> Any:
        if not isinstance(sizes, _Steps):
            return function(data, sizes, *rest)
        # (data, sizes, states, weights, biases, layers, dropout, training, bidirectional)
        found = function(data.unflatten(0, (len(sizes), sizes[0])), *rest, False)
        return (found[0].flatten(0, 1), *found[1:])

    return run
