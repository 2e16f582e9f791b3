"""Small convolutional networks: those of the papers are rows of arguments, not files.

5,370 parameters (Tina)               widths = [16, 32], stride = 2, bias = false
21,914 parameters (DeepWeightFlow)    widths = [16, 24, 24], norm = true, grid = 4, hidden = 32
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def cnn(
    widths: Sequence[int],
    classes: int,
    channels: int = 3,
    stride: int = 1,
    bias: bool = True,
    norm: bool = False,
    grid: int | None = None,
    hidden: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """3x3 convolutions with ReLU: images (batch, channels, height, width) to logits (batch, classes).

    `stride` is the first convolution's. With `grid`, each convolution is followed by a 2x2 maximum and
    the last map is grid x grid; without, the mean is taken over the last map. `hidden` adds a layer.
    `dropout` leaves out that share of what the last layer is given, in training.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *widths]):
        first = not layers
        layers.append(nn.Conv2d(before, after, 3, stride if first else 1, padding=1, bias=bias))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers += [nn.ReLU()] if grid is None else [nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if grid is None else [nn.Flatten()]
    features = widths[-1] * (grid or 1) ** 2
    if hidden is not None:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
    layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(hidden or features, classes))
