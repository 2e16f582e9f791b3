"""Heads on the features of a frozen backbone: a linear layer or an adapter."""

from __future__ import annotations

from torch import nn


def linear_head(inputs: int, classes: int) -> nn.Linear:
    """Features (batch, inputs) to logits; each row of the weight is a class (Tina, arXiv:2405.14132)."""
    return nn.Linear(inputs, classes)


def adapter(inputs: int, hidden: int, classes: int, outputs: int | None = None) -> nn.Sequential:
    """Features to a vector, 16,912 parameters at 512, 16 and 512 (T2W, arXiv:2508.13633).

    `outputs` is the width of the text vectors, that of the features by default. `classes` does not change
    it: its output is compared with the text vector of each class, so it has no logits of its own and no
    class axes.
    """
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs or inputs))
