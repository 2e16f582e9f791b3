"""Averages over the orbits of permutation symmetries.

Where networks are relabelled at random, an entry's own mean says nothing: every entry of its orbit
comes by. Averages over the orbits of hidden units and of classes leave what relabelling leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from canon.spec import Axis
from canon.types import StateDict
from weightflow.networks.architectures import Architecture


@dataclass(frozen=True)
class OrbitSymmetries:
    """Whether hidden units, and whether classes, may trade places."""

    units: bool = False
    classes: bool = False

    def average(self, architecture: Architecture, state: StateDict) -> StateDict:
        """Stacked tensors (networks, *shape), each entry the mean of those that it may trade places with."""
        found = {}
        for name, tensor in state.items():
            for number, axis in enumerate(architecture.spec.axes[name] if self.units else ()):
                if axis.groups:
                    tensor = _average(tensor, number + 1, _orbits(axis))
            if self.classes and name in architecture.class_axes:
                axis_number = architecture.class_axes[name] + 1
                tensor = tensor.mean(axis_number, keepdim=True).expand_as(tensor)
            found[name] = tensor
        return found


def _orbits(axis: Axis) -> Tensor:
    """A number for each position of the axis (size,); positions that units may trade share it."""
    parts, start = [], 0
    for segment in axis.segments:
        sizes = [factor.size for factor in segment]
        places = torch.unravel_index(torch.arange(prod(sizes)), sizes)
        orbit = torch.zeros(prod(sizes), dtype=torch.long)
        for factor, place in zip(segment, places, strict=True):
            if factor.group is None:
                orbit = orbit * factor.size + place
        parts.append(start + orbit)
        start += int(orbit.max()) + 1
    return torch.cat(parts)


def _average(tensor: Tensor, dim: int, orbit: Tensor) -> Tensor:
    sums = torch.zeros(*tensor.shape[:dim], int(orbit.max()) + 1, *tensor.shape[dim + 1 :]).to(tensor)
    means = sums.index_add(dim, orbit, tensor)
    counts = orbit.bincount().reshape(-1, *[1] * (tensor.dim() - dim - 1))
    return (means / counts).index_select(dim, orbit)
