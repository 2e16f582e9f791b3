"""Chance: the largest class's share of the test examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weightflow.batched.tasks import Task


def chances(tasks: Sequence[Task]) -> list[float]:
    """For each task the share of its largest class among its test examples, a fraction.

    Where all its classes have as many examples, it is one over their number; guessing evenly is never better.
    """
    data = tasks[0].data
    counts = torch.bincount(data.test.open_for_evaluation().labels, minlength=len(data.class_names))
    # of a union, the examples of all its members
    own = [
        torch.stack([counts[labels].sum() for labels in data.class_labels(task.classes)]) for task in tasks
    ]
    return [float(one.max() / one.sum()) for one in own]


def chance(tasks: Sequence[Task]) -> float:
    """The mean of `chances`."""
    return sum(chances(tasks)) / len(tasks)
