"""The coordinates in which the flow runs: tokens less the zoo's mean, over one scale per tensor.

The mean is taken entry by entry, because in a common frame every entry has a meaning of its own. The
scale is one number a tensor: entry by entry, a weight that training never moved would count as much
as one that decides. Where a network has fewer classes than the architecture, the entries of missing
logits are masked out and stay zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightflow.architectures import Architecture
from weightflow.exchange import Exchange
from weightflow.tokens import Layout
from weightflow.zoo.logits import State, pad_with_zeros

Tokens = Float[Tensor, "networks tokens width"]


def used_entries(
    architecture: Architecture, layout: Layout, present: Bool[Tensor, "networks classes"]
) -> Bool[Tensor, "networks tokens width"]:
    """Which entries of the tokens belong to a network with these logits."""
    ones = {
        name: torch.ones(1, *shape).expand(len(present), *shape)
        for name, shape in architecture.shapes.items()
    }
    return layout.encode(pad_with_zeros(architecture, ones, present)).bool()


@dataclass(frozen=True)
class Coordinates:
    """`z = (tokens - mean) / std`, mean and std of shape (tokens, width)."""

    architecture: Architecture
    layout: Layout
    mean: Tensor
    std: Tensor

    @classmethod
    def fit(
        cls,
        architecture: Architecture,
        layout: Layout,
        state: State,
        present: Bool[Tensor, "networks classes"],
        exchange: Exchange = Exchange(),
    ) -> Coordinates:
        """Statistics of a population of stacked networks, missing logits left out.

        Entries that may trade places share one mean; they share their scale in any case.
        """
        tokens, used = layout.encode(state), used_entries(architecture, layout, present)
        count = used.sum(0)
        sums = exchange.average(architecture, layout.decode((tokens * used).sum(0, keepdim=True)))
        counts = exchange.average(architecture, layout.decode(count.unsqueeze(0).to(tokens.dtype)))
        mean = layout.encode(sums)[0] / layout.encode(counts)[0].clamp(min=1e-6)
        square = (((tokens - mean) * used) ** 2).sum(0, keepdim=True)
        squares, counts = layout.decode(square), layout.decode(count.unsqueeze(0).to(tokens.dtype))
        scale = {
            name: torch.full_like(s, float((s.sum() / counts[name].sum()).sqrt()))
            for name, s in squares.items()
        }
        std = layout.encode(scale)[0]
        return cls(architecture, layout, mean, torch.where(std > 0, std, torch.ones_like(std)))

    def encode(self, state: State, present: Bool[Tensor, "networks classes"]) -> Tokens:
        """Stacked networks to standardised tokens; missing logits are zero."""
        z = (self.layout.encode(state) - self.mean) / self.std
        return z * used_entries(self.architecture, self.layout, present)

    def decode(self, z: Tokens, present: Bool[Tensor, "networks classes"]) -> State:
        """The inverse: stacked networks, missing logits zero, in the architecture's own order."""
        state = self.layout.decode(z * self.std + self.mean)
        ordered = {name: state[name] for name in self.architecture.shapes}
        return pad_with_zeros(self.architecture, ordered, present)
