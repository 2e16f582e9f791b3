r"""Linear assignment with scipy: the permutation p that maximizes sum_i score[i, p[i]].

Exact, by scipy's shortest augmenting paths (Crouse 2016, doi:10.1109/TAES.2016.140952).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
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
    return solve_side_by_side([scores])[0]


def solve_side_by_side(stacks: Sequence[Tensor]) -> list[Tensor]:
    """`solve_many` of stacks that may differ in size: all problems share the cores."""
    costs = [_cost(scores) for scores in stacks]
    each, threads = [one for cost in costs for one in cost], torch.get_num_threads()
    if len(each) < 2 or threads == 1:
        found: Iterator[np.ndarray] = map(_best, each)
        return [_permutations(found, scores) for scores in stacks]
    # The solver releases Python's global lock. The threads beside it run no torch code, which has threads of its own.
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(_best, each)
        return [_permutations(found, scores) for scores in stacks]


def _cost(scores: Tensor) -> np.ndarray:
    """What the solver minimises, (networks, n, n) in float64, ties broken."""
    if scores.dim() != 3 or scores.shape[1] != scores.shape[2]:
        raise InputError(f"scores must be (networks, n, n), found shape {tuple(scores.shape)}")
    scores = scores.detach()
    largest = _largest(scores)
    if not largest.isfinite().all():
        raise InputError("a score holds NaN or infinity; look for it in the weights that were given")
    cost = np.negative(scores.cpu().numpy(), dtype=np.float64)
    diagonal = np.arange(cost.shape[-1])
    cost[:, diagonal, diagonal] -= TIE * largest.double().cpu().numpy()[:, None]
    return cost


def _largest(scores: Tensor) -> Tensor:
    """The greatest magnitude in each score: NaN or infinity where there is one."""
    if not scores.numel():
        return scores.new_zeros(len(scores))
    # one whole tensor is read several times faster than rows of it
    ends = scores.aminmax() if len(scores) == 1 else scores.flatten(1).aminmax(dim=1)
    return torch.maximum(-ends.min, ends.max).reshape(-1)


def _best(cost: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # slow to import, and not needed by `inspect`

    return linear_sum_assignment(cost)[1]


def _permutations(found: Iterator[np.ndarray], scores: Tensor) -> Tensor:
    """The next of `found`, as many as the stack has scores."""
    rows = np.zeros(scores.shape[:2], dtype=np.int64)
    for number, row in enumerate(islice(found, len(scores))):
        rows[number] = row
    return torch.from_numpy(rows).to(scores.device)
