r"""Expected calibration error.

    ECE = sum_b  n_b / n  |accuracy_b - confidence_b|

over bins b of equal width of the confidence, the probability of the answer. Guo et al. 2017,
arXiv:1706.04599. Of many networks at once, each with examples of its own, which torchmetrics does one by one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Many = "networks examples"


def calibration_error(
    confidence: Float[Tensor, Many], correct: Bool[Tensor, Many], counted: Bool[Tensor, Many], bins: int = 15
) -> Float[Tensor, " networks"]:
    """The error of each network, a fraction of 1, over its counted examples."""
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gap = (correct.double() - confidence.double()) * counted
    by_bin = torch.zeros(len(confidence), bins, dtype=torch.float64).scatter_add_(1, place, gap)
    return by_bin.abs().sum(1) / counted.sum(1).clamp(min=1)
