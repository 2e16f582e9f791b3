r"""Overlap of errors and disagreement between the predictions of networks.

    IoU(a, b) = |wrong_a and wrong_b| / |wrong_a or wrong_b|

Both among networks of one combination of classes, where wrong answers mean the same. DeepWeightFlow,
arXiv:2601.05052, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightflow.batched.tasks import Task
from weightflow.evaluation.evaluate import Predictions


@dataclass(frozen=True)
class ErrorOverlap:
    """Means over networks; None where no combination of classes has networks to compare."""

    wrong_iou: float | None
    disagreement: float | None


def compare_behaviour(
    predictions: Predictions, tasks: Sequence[Task], others: Predictions, other_tasks: Sequence[Task]
) -> ErrorOverlap:
    """Each network against the others of the same combination of classes.

    `wrong_iou` is the largest intersection over union of wrong predictions with any other network (two
    networks without a mistake agree in full: 1), `disagreement` the mean share of counted examples on
    which the two say different things. Passing the same population twice leaves each network itself out.
    """
    same, theirs = predictions is others, _by_combination(other_tasks)
    ious, disagreements = [], []
    for combination, rows in _by_combination(tasks).items():
        against = theirs.get(combination, [])
        if len(against) < 1 + same:
            continue
        counted = predictions.counted[rows[0]]
        labels, a, b = predictions.labels[counted], predictions.predicted[rows], others.predicted[against]
        a, b = a[:, counted], b[:, counted]
        iou, differs = _wrong_iou(a, b, labels), 1 - _agreement(a, b)
        if same:
            iou.fill_diagonal_(-1)
            differs.fill_diagonal_(0)
        ious.append(iou.max(dim=1).values)
        disagreements.append(differs.sum(1) / (len(against) - same))
    if not ious:
        return ErrorOverlap(None, None)
    return ErrorOverlap(float(torch.cat(ious).mean()), float(torch.cat(disagreements).mean()))


def _wrong_iou(a: Tensor, b: Tensor, labels: Tensor) -> Float[Tensor, "n m"]:
    a, b = (a != labels).double(), (b != labels).double()
    both = a @ b.T
    either = a.sum(1, keepdim=True) + b.sum(1) - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def _agreement(a: Tensor, b: Tensor) -> Float[Tensor, "n m"]:
    """Share of examples on which two networks say the same, label by label in matrix products."""
    said = [(a == label).double() @ (b == label).double().T for label in a.unique()]
    return torch.stack(said).sum(0) / a.shape[1]


def _by_combination(tasks: Sequence[Task]) -> dict[frozenset[str], list[int]]:
    members: dict[frozenset[str], list[int]] = {}
    for row, task in enumerate(tasks):
        members.setdefault(frozenset(task.classes), []).append(row)
    return members
