"""Tokens less the zoo's mean, over one scale per tensor.

The mean is taken entry by entry, because in a common frame every entry has a meaning of its own. The
scale is one number a tensor: entry by entry, a weight that training never moved would count as much
as one that decides. Where a network has fewer classes than the architecture, the entries of missing
logits are masked out and stay zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.networks.architectures import Architecture
from weightflow.representation.base import Batches, Coordinates, Present, Z, require_shapes, used_entries
from weightflow.representation.layout import Layout
from weightflow.representation.orbit_average import OrbitSymmetries


@dataclass(frozen=True)
class Tokens(Coordinates):
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
        batches: Batches,
        count: int,
        scaled: bool,
        exchange: OrbitSymmetries,
    ) -> Tokens:
        """Statistics of a population, missing logits left out; mean 0 and std 1 where not `scaled`."""
        total, number, square = torch.zeros(3, layout.tokens, layout.width)
        if not scaled:
            return cls(architecture, layout, total, torch.ones_like(total))
        # `encode` makes new tensors, and whole networks are large: all that follows is in place
        for state, present in batches():
            used = used_entries(architecture, layout, present)
            total += layout.encode(state).mul_(used).sum(0)
            number += used.sum(0, dtype=number.dtype)
        total, number = (_over_orbits(architecture, layout, exchange, sums) for sums in (total, number))
        mean = total / number.clamp(min=1e-6)
        for state, present in batches():
            used = used_entries(architecture, layout, present)
            square += layout.encode(state).sub_(mean).mul_(used).square_().sum(0)
        return cls(architecture, layout, mean, _scale_of_tensors(layout, square, number))

    @classmethod
    def restore(cls, architecture: Architecture, layout: Layout, tensors: Mapping[str, Tensor]) -> Tokens:
        require_shapes(tensors, dict.fromkeys(("mean", "std"), (layout.tokens, layout.width)))
        return cls(architecture, layout, tensors["mean"], tensors["std"])

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std}

    def used(self, present: Present) -> Bool[Tensor, "networks tokens width"]:
        return used_entries(self.architecture, self.layout, present)

    def encode(self, state: StateDict, present: Present) -> Z:
        z = self.layout.encode(state).sub_(self.mean).div_(self.std)
        return z.mul_(self.used(present))

    def decode(self, z: Z, present: Present) -> StateDict:
        state = self.layout.decode(torch.addcmul(self.mean, z, self.std))
        ordered = {name: state[name] for name in self.architecture.shapes}
        return pad_with_zeros(self.architecture, ordered, present)


def _over_orbits(
    architecture: Architecture, layout: Layout, exchange: OrbitSymmetries, tokens: Tensor
) -> Tensor:
    """Tokens (tokens, width), each entry the mean of those that it may trade places with."""
    return layout.encode(exchange.average(architecture, layout.decode(tokens.unsqueeze(0))))[0]


def _scale_of_tensors(layout: Layout, square: Tensor, number: Tensor) -> Tensor:
    """Root mean square of each tensor over its used entries, laid out as tokens; 1 where it is zero."""
    squares, numbers = layout.decode(square.unsqueeze(0)), layout.decode(number.unsqueeze(0))
    scale = {
        name: torch.full_like(s, float((s.sum() / numbers[name].sum()).sqrt())) for name, s in squares.items()
    }
    std = layout.encode(scale)[0]
    return torch.where(std > 0, std, torch.ones_like(std))
