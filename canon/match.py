"""What every matching method returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Match:
    """A permutation of network B towards network A, and what it gained.

    For many networks at once every tensor carries a leading axis of networks; objectives are float64.
    `gains[group]` is the share of the objective's rise that came with that group, `moved[group]` the
    fraction of its units that changed place.
    """

    permutation: dict[str, Tensor]
    objective_before: Tensor
    objective: Tensor
    sweeps: int
    converged: bool
    seconds: float
    gains: dict[str, float]
    moved: dict[str, float]
