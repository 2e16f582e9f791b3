"""Which convolutions of a chain may be transposed, by the shapes of all its layers.

A convolution holds (outputs, inputs, …), a transposed one (inputs, outputs, …). A chain decides between the two where
only one reading passes the right number of channels on through every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from canon.models.families.functional import Tensors


class _Step(NamedTuple):
    """A reading of a layer: the channels that it takes and gives."""

    transposed: bool
    takes: int
    gives: int


def readings(tensors: Tensors, layers: Sequence[str]) -> dict[str, set[bool]]:
    """For each convolution, whether it may be transposed (True), and whether it may be none (False).

    Both are empty where no reading fits: then `apply_layer` says what is wrong.
    """
    convolutions = [layer for layer in layers if _dims(tensors, layer) > 2]
    if not convolutions:
        return {}
    steps: list[tuple[str, list[_Step]]] = []
    for layer in layers[layers.index(convolutions[0]) :]:
        if _dims(tensors, layer) == 2:
            break
        steps.append((layer, _steps(tensors, layer)))
    flat = len(steps) < len(layers) - layers.index(convolutions[0])
    features = _takes(tensors, layers[layers.index(convolutions[0]) + len(steps)]) if flat else 0
    fitting: list[set[_Step]] = []
    reached = {step.takes for step in steps[0][1]}
    for _, choices in steps:
        fitting.append({step for step in choices if step.takes in reached})
        reached = {step.gives for step in fitting[-1]}
    wanted = {count for count in reached if not flat or features % count == 0}
    for kept in reversed(fitting):
        kept.intersection_update({step for step in kept if step.gives in wanted})
        wanted = {step.takes for step in kept}
    found = zip(steps, fitting, strict=True)
    return {layer: {step.transposed for step in kept} for (layer, _), kept in found if layer in convolutions}


def _steps(tensors: Tensors, layer: str) -> list[_Step]:
    """The readings of a layer that its own tensors allow; a norm gives what it takes."""
    if _dims(tensors, layer) == 1:
        size = tensors[f"{layer}.weight"].shape[0]
        return [_Step(False, size, size)]
    rows, columns = tensors[f"{layer}.weight"].shape[:2]
    bias = tensors.get(f"{layer}.bias")
    both = [_Step(False, columns, rows), _Step(True, rows, columns)]
    return [step for step in both if bias is None or len(bias) == step.gives]


def _dims(tensors: Tensors, layer: str) -> int:
    """2 for linear and recurrent layers, more for convolutions, 1 for norms."""
    key = f"{layer}.weight"
    return tensors[key].dim() if key in tensors else 2


def _takes(tensors: Tensors, layer: str) -> int:
    key = f"{layer}.weight" if f"{layer}.weight" in tensors else f"{layer}.weight_ih_l0"
    return int(tensors[key].shape[1])
