"""What every matching method returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Match:
    """A permutation of network B towards network A, and what it gained.

    For many networks at once every tensor carries a leading axis of networks; objectives are float64.
    `gains[group]` is the share of the objective's rise that came with that group, `moved[group]` the
    fraction of its units that changed place. `scales` holds the signs of B's units where they were
    matched too: B is scaled first and then relabelled.
    """

    permutation: dict[str, Tensor]
    objective_before: Tensor
    objective: Tensor
    sweeps: int
    converged: bool
    seconds: float
    gains: dict[str, float]
    moved: dict[str, float]
    scales: dict[str, Tensor] = field(default_factory=dict)
