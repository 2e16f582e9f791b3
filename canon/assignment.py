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
    table = scores.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(table).all():
        raise InputError("a score holds NaN or infinity; look for it in the weights that were given")
    table = _prefer_identity(table)
    # The solver lets go of Python's lock, so that small problems share the cores.
    if len(table) < 8 or torch.get_num_threads() == 1:
        rows = [_best(score) for score in table]
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = list(pool.map(_best, table, chunksize=8))
    found = np.stack(rows) if rows else np.zeros(table.shape[:2])
    return torch.from_numpy(found.astype(np.int64)).to(scores.device)


def _prefer_identity(table: np.ndarray) -> np.ndarray:
    biased = table.copy()
    if table.size:
        diagonal = np.arange(table.shape[-1])
        biased[:, diagonal, diagonal] += TIE * np.abs(table).max(axis=(1, 2))[:, None]
    return biased


def _best(score: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(score, maximize=True)[1]
