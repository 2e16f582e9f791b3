r"""How far a mean may lie from the truth: Student's t interval.

    mean \pm t_{n-1} s / \sqrt{n}

For the mean of n independent values. A percentile bootstrap, which it replaces, covers 88 % at n = 8 and 73 % at
n = 3 where it says 95 %; on skewed values (accuracies near one) neither reaches 95 % below about 60, and t is nearer.
Student 1908, The Probable Error of a Mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from scipy import stats
from torch import Tensor


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
    """The mean of values and the interval that holds the true mean in `level` of all samples.

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
        >>> interval(torch.tensor([0.8, 0.9, 1.0]), bounds=(0, 1)).ends()
        [0.651586, 1.0]
    """
    if not 0 < level < 1:
        raise ValueError(f"interval: level {level} is between 0 and 1")
    values, n = values.double(), len(values)
    mean = float(values.mean())
    if n < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(values.std(correction=1)) / n**0.5
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]))
