"""The result type of all matching methods."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Match:
    """A permutation of network B towards network A, and what it gained.

    For many networks at once every tensor carries a leading axis of networks; objectives are float64.

    Args:
        permutation: for each group, the old unit of B at each new place.
        objective_before: the objective of B as it stands.
        objective: the objective after the permutation.
        sweeps: passes over all groups.
        converged: whether the last sweep gained nothing more.
        seconds: wall-clock time.
        gains: for each group, the share of the objective's rise that came with it.
        moved: for each group, the fraction of its units that changed place.
        scales: the signs of B's units where they were matched too: B is scaled first and then permuted.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> match = canon.match_weights(spec, a.state_dict(), b.state_dict())
        >>> bool(match.objective >= match.objective_before)
        True
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
