"""Early stopping per network, with the state of the best validation result."""

from __future__ import annotations

import torch
from torch import Tensor

from canon.types import StateDict


class BestStates:
    """The state of each network at its best validation result."""

    def __init__(self, begin: StateDict, patience: int) -> None:
        networks = len(next(iter(begin.values())))
        self.state = {name: tensor.clone() for name, tensor in begin.items()} if patience else {}
        self.patience, self.steps = patience, torch.zeros(networks, dtype=torch.long)
        self.accuracy, self.in_vain = torch.full((networks,), -1.0), torch.zeros(networks, dtype=torch.long)

    def look(self, rows: Tensor, state: StateDict, accuracy: Tensor, step: int) -> Tensor:
        """Record new best results of the networks in `rows`; returns which of them should continue."""
        better = accuracy > self.accuracy[rows]
        self.in_vain[rows] = torch.where(better, 0, self.in_vain[rows] + 1)
        found = rows[better]
        self.accuracy[found], self.steps[found] = accuracy[better], step
        for name, tensor in state.items():
            self.state[name][found] = tensor[better]
        return self.in_vain[rows] < self.patience
