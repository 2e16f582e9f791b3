"""How far a mean would move with other networks: the percentile bootstrap (Efron 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
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
    values: Float[Tensor, " n"], generator: torch.Generator, level: float = 0.95, draws: int = 2000
) -> Interval:
    """The mean of `values` and where `level` of the means of resampled values lie."""
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"interval: level {level} is between 0 and 1, draws {draws} at least 1")
    values = values.double()
    if len(values) < 2:
        return Interval(float(values.mean()), None, None)
    means = torch.cat(
        [
            values[torch.randint(len(values), (rows, len(values)), generator=generator)].mean(dim=1)
            for rows in _chunks(draws, max(1, 2**22 // len(values)))
        ]
    )
    ends = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype))
    return Interval(float(values.mean()), float(ends[0]), float(ends[1]))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
