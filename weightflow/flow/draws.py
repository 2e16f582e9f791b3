"""Random numbers for a batch that several processes share.

All of them come from one stream on the processor, whatever the device: every device and every number of processes
sees the same noise. Each process draws for the whole batch and keeps the rows of its own networks, which are every
`processes`-th from `rank` on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseDraws:
    """Draws for the networks of one process, on its `device`.

    `networks` in all methods is how many of the batch this process has, the same in every process.
    """

    generator: torch.Generator
    device: torch.device = torch.device("cpu")
    rank: int = 0
    processes: int = 1

    def normal(self, networks: int, *shape: int) -> Tensor:
        """Standard normal numbers (networks, *shape)."""
        return self.put(self.own(torch.randn(networks * self.processes, *shape, generator=self.generator)))

    def uniform(self, networks: int, *shape: int) -> Tensor:
        """Uniform numbers from 0 to below 1 (networks, *shape)."""
        return self.put(self.own(torch.rand(networks * self.processes, *shape, generator=self.generator)))

    @property
    def on_processor(self) -> NoiseDraws:
        """The same stream for numbers that choose examples: those are looked up on the processor."""
        return replace(self, device=torch.device("cpu"))

    def integer(self, below: int) -> int:
        """One number for the whole batch."""
        return int(torch.randint(below, (1,), generator=self.generator))

    def own(self, drawn: Tensor) -> Tensor:
        """The rows of this process of what was drawn for the whole batch."""
        return drawn[self.rank :: self.processes] if self.processes > 1 else drawn

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on the device of the computation."""
        return tensor.to(self.device, non_blocking=True)
