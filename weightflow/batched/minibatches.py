"""Mini-batches of many networks: each draws shuffled epochs of its own examples with its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from weightflow.datasets import Split, StoredInputs

# examples are preprocessed beforehand where they fit into so many bytes, batch by batch otherwise
IN_MEMORY = 2**28


def mini_batches(
    rows: Sequence[Tensor], batch_size: int, steps: int, seeds: Sequence[int], block: int = 64
) -> Iterator[Tensor]:
    """Indices (networks, batch_size): each network walks shuffled epochs of its own rows.

    They are drawn for `block` steps at a time: step by step, drawing for many networks would take longer
    than training them.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    streams = [torch.empty(0, dtype=torch.long) for _ in seeds]
    for start in range(0, steps, block):
        wanted = min(block, steps - start) * batch_size
        drawn = []
        for i, own in enumerate(rows):
            epochs = -(-(wanted - len(streams[i])) // len(own))
            orders = [torch.randperm(len(own), generator=generators[i]) for _ in range(epochs)]
            stream = torch.cat([streams[i], own[torch.cat(orders)]]) if orders else streams[i]
            drawn.append(stream[:wanted])
            streams[i] = stream[wanted:]
        yield from torch.stack(drawn).split(batch_size, dim=1)


class Examples:
    """The examples that some tasks need, `rows` of a split, to be picked by their place among those."""

    def __init__(self, split: Split, rows: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.labels = split.labels[rows]
        inputs = split.inputs
        self._inputs: Tensor | StoredInputs
        if isinstance(inputs, StoredInputs) and inputs[:1].nbytes * len(rows) > IN_MEMORY:
            self._inputs = inputs.some(rows)
        else:
            self._inputs = torch.cat([inputs[part].to(dtype) for part in rows.split(4096)])

    def __getitem__(self, index: Tensor) -> Tensor:
        """Inputs (*index.shape, *shape)."""
        if isinstance(self._inputs, StoredInputs):
            return self._inputs[index]
        return self._inputs.index_select(0, index.flatten()).view(*index.shape, *self._inputs.shape[1:])
