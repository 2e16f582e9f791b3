r"""Confidence intervals of means: Student's t with Hall's correction for skewness.

    T = \sqrt{n} (mean - \mu) / s,   g(u) = u + a u^2 / 3 + a^2 u^3 / 27 + a / (6 n),   u = T / \sqrt{n}

a is the skewness of the values. \sqrt{n} g(u) has far less skewness than T; the interval holds the \mu for which it lies
between quantiles of Student's t. g is monotone and has an inverse in closed form; where a = 0 it is Student's interval.

Fewer than five values do not tell their skewness, and have Student's interval. How often it
holds the truth of normal and of skewed values is measured in `tests/weightflow/evaluation/test_evaluate.py`.
Student 1908, The Probable Error of a Mean. Hall 1992, On the Removal of Skewness by Transformation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from scipy import stats
from torch import Tensor

SKEWNESS_FROM = 5
"""Values from which on their skewness is taken into account."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval; without ends where there are fewer than two values."""

    mean: float
    low: float | None
    high: float | None

    def ends(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [round(self.low, 6), round(self.high, 6)]


def interval(
    values: Float[Tensor, " n"],
    level: float = 0.95,
    bounds: tuple[float, float] = (-float("inf"), float("inf")),
) -> Interval:
    """The mean of values and the interval that holds the true mean in about `level` of all samples.

    Fewer where few values are strongly skewed, see docs/evaluation.md.

    Args:
        values: (n,) independent values.
        level: Share of samples whose interval holds the true mean, between 0 and 1.
        bounds: The least and largest value that there can be; the interval is cut there.

    Returns:
        The mean and the ends, in the unit of the values.

    Raises:
        ValueError: `level` is not between 0 and 1.

    Example:
        >>> import torch
        >>> interval(torch.tensor([0.8, 0.9, 1.0]), bounds=(0.0, 1.0)).ends()
        [0.651586, 1.0]
    """
    if not 0 < level < 1:
        raise ValueError(f"interval: level {level} is between 0 and 1")
    values, n = values.double(), len(values)
    mean = float(values.mean())
    if n < 2:
        return Interval(mean, None, None)
    deviation, quantile = float(values.std(correction=1)), float(stats.t.ppf((1 + level) / 2, n - 1)) / n**0.5
    skewness = _skewness(values) if n >= SKEWNESS_FROM else 0.0
    low = mean - deviation * _untransformed(quantile, skewness, n)
    high = mean - deviation * _untransformed(-quantile, skewness, n)
    return Interval(mean, max(low, bounds[0]), min(high, bounds[1]))


def _skewness(values: Float[Tensor, " n"]) -> float:
    centred = values - values.mean()
    deviation = float(centred.square().mean().sqrt())
    return float((centred / deviation).pow(3).mean()) if deviation > 0 else 0.0


def _untransformed(v: float, a: float, n: int) -> float:
    """The u with g(u) = v."""
    if abs(a) < 1e-6:
        return v
    return 3 / a * (math.cbrt(1 + a * (v - a / (6 * n))) - 1)
