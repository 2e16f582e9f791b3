"""Accuracy of trained networks on training and validation examples, never on test examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from canon.types import StateDict
from weightflow.batched.inference import accuracies, predict_many
from weightflow.batched.tasks import Task
from weightflow.datasets import ClassificationData, Split
from weightflow.networks.architectures import Architecture


def measured(
    architecture: Architecture, state: StateDict, data: ClassificationData, tasks: Sequence[Task]
) -> list[dict[str, float]]:
    """Accuracy of each stacked network by split, fractions."""
    found = {}
    for name, split in (("train", some_of(data.train)), ("validation", data.validation)):
        predicted = predict_many(architecture, state, split.inputs, data, tasks, labels=split.labels)
        found[name] = accuracies(predicted, split.labels, data, tasks)
    return [
        {name: round(float(values[row]), 6) for name, values in found.items()} for row in range(len(tasks))
    ]


def some_of(split: Split, most: int = 10_000) -> Split:
    """At most `count` evenly spaced examples, for a quick estimate of accuracy."""
    if len(split) <= most:
        return split
    rows = torch.linspace(0, len(split) - 1, most).long()
    return Split(split.inputs[rows], split.labels[rows])
