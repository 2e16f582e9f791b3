"""How the convolutions of a chain may be read, by the shapes of all its layers.

A convolution holds (outputs, inputs / groups, …), a transposed one (inputs, outputs / groups, …). A chain decides where
only one reading passes the right number of channels on through every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from canon.models.families.functional import Tensors


class Reading(NamedTuple):
    """A way to read a weight: whether transposed, its groups, and the channels that it takes and gives."""

    transposed: bool
    groups: int
    takes: int
    gives: int


def readings(tensors: Tensors, layers: Sequence[str]) -> dict[str, set[Reading]]:
    """The readings of each convolution that fit those of all others; none of any where no way fits."""
    weights = {layer: tensors.get(f"{layer}.weight") for layer in layers}
    dims = {layer: 2 if weight is None else weight.dim() for layer, weight in weights.items()}
    end = next((place for place, layer in enumerate(layers) if dims[layer] == 2), len(layers))
    steps = [(layer, found) for layer in layers[:end] if (found := _own(tensors, layer)) is not None]
    if not steps:
        return {}
    fitting = [set(steps[0][1])]
    for _, own in steps[1:]:
        reached = {reading.gives for reading in fitting[-1]}
        fitting.append({reading for reading in own if reading.takes in reached})
    last = weights[layers[end]] if end < len(layers) else None
    wanted = {r.gives for r in fitting[-1] if last is None or last.shape[1] % r.gives == 0}
    for kept in reversed(fitting):
        kept.intersection_update({reading for reading in kept if reading.gives in wanted})
        wanted = {reading.takes for reading in kept}
    return {layer: kept for (layer, _), kept in zip(steps, fitting, strict=True) if dims[layer] > 2}


def _own(tensors: Tensors, layer: str) -> list[Reading] | None:
    """The readings that the tensors of a layer allow; of a norm None, unless statistics tell its channels."""
    weight, bias = tensors[f"{layer}.weight"], tensors.get(f"{layer}.bias")
    rows = weight.shape[0]
    if weight.dim() == 1:
        return [Reading(False, 1, rows, rows)] if f"{layer}.running_mean" in tensors else None
    inner = weight.shape[1]
    groups = [n for n in range(1, rows + 1) if rows % n == 0]
    both = [Reading(False, n, inner * n, rows) for n in groups] + [
        Reading(True, n, rows, inner * n) for n in groups
    ]
    return [reading for reading in both if bias is None or len(bias) == reading.gives]
