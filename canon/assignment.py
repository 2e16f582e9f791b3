r"""The one door to the linear assignment solver: the permutation p that maximises sum_i score[i, p[i]].

Exact, by scipy's shortest augmenting paths (Crouse 2016, doi:10.1109/TAES.2016.140952).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from canon.errors import InputError

# Relative weight of staying in place: above rounding, far below any difference worth a move.
TIE = 1e-13


def solve(score: Tensor) -> Tensor:
    """The best permutation for a score of shape (n, n); ties go to the identity. See `solve_many`."""
    if score.dim() != 2:
        raise InputError(f"a score must be a square matrix, found shape {tuple(score.shape)}")
    return solve_many(score[None])[0]


def solve_many(scores: Tensor) -> Tensor:
    """One permutation for each score: (networks, n, n) -> (networks, n), int64, on the scores' device.

    Raises `InputError` where a score is not square, not finite or not real.
    """
    if scores.dim() != 3 or scores.shape[1] != scores.shape[2]:
        raise InputError(f"scores must be (networks, n, n), found shape {tuple(scores.shape)}")
    # The solver minimises, in float64; negating here spares it a copy.
    cost = np.negative(scores.detach().cpu().numpy(), dtype=np.float64)
    if not np.isfinite(cost.sum()) and not np.isfinite(cost).all():
        raise InputError("a score holds NaN or infinity; look for it in the weights that were given")
    if cost.size:
        diagonal = np.arange(cost.shape[-1])
        largest = np.maximum(cost.max((1, 2)), -cost.min((1, 2)))
        cost[:, diagonal, diagonal] -= TIE * largest[:, None]
    # The solver lets go of Python's lock, so that small problems share the cores.
    if len(cost) < 2 or torch.get_num_threads() == 1:
        rows = [_best(one) for one in cost]
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = list(pool.map(_best, cost, chunksize=8))
    found = np.stack(rows) if rows else np.zeros(cost.shape[:2])
    return torch.from_numpy(found.astype(np.int64)).to(scores.device)


def _best(cost: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(cost)[1]
