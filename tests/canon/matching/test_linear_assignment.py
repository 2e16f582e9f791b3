"""Laws of the assignment solver."""

from itertools import permutations

import pytest
import torch

from canon.errors import InputError
from canon.matching import linear_assignment


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def value(score, p):
    return score.double().gather(-1, p[..., None]).sum()


def test_agrees_with_exhaustive_search(generator):
    score = torch.randn(5, 5, generator=generator)
    best = max(value(score, torch.tensor(p)) for p in permutations(range(5)))
    assert value(score, linear_assignment.solve(score)) == best


def test_many_equals_one_at_a_time(generator):
    scores = torch.randn(20, 7, 7, generator=generator)
    together = linear_assignment.solve_many(scores)
    assert all(
        torch.equal(p, linear_assignment.solve(score)) for p, score in zip(together, scores, strict=True)
    )


@pytest.mark.parametrize("fill", [0.0, 3.0, -2e6])
def test_ties_go_to_the_identity(fill):
    assert torch.equal(linear_assignment.solve(torch.full((9, 9), fill)), torch.arange(9))


def test_tied_units_stay_while_others_move():
    score = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert linear_assignment.solve(score).tolist() == [1, 0, 2, 3]


def test_scores_are_left_alone(generator):
    score = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    before = score.clone()
    linear_assignment.solve(score)
    assert torch.equal(score, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad):
    score = torch.zeros(3, 3)
    score[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        linear_assignment.solve(score)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 3)])
def test_what_is_not_square_is_refused(shape):
    with pytest.raises(InputError, match="found shape"):
        linear_assignment.solve(torch.zeros(shape))
