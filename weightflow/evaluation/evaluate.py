"""Evaluate networks on test images. This is the one place that opens them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from canon.types import StateDict
from weightflow import datasets
from weightflow.batched.class_axes import class_table
from weightflow.batched.inference import (
    accuracies,
    credit_union_members,
    forward_many,
    in_task,
    predict_labels,
    probabilities,
)
from weightflow.batched.tasks import Task
from weightflow.data.types import Split, StoredInputs
from weightflow.evaluation.calibration import calibration_error
from weightflow.evaluation.interval import interval
from weightflow.networks.architectures import Architecture


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over networks, and the 95 % interval of the mean (`evaluation/interval.py`)."""

    mean: float
    std: float
    interval: list[float] | None = None

    @classmethod
    def of(cls, values: Float[Tensor, " networks"], least: float = 0.0) -> Spread:
        """Of fractions; `least` is -1 for differences of fractions."""
        found = interval(values, bounds=(least, 1.0))
        return cls(found.mean, float(values.double().std(correction=0)), found.ends())

    def to_dict(self) -> dict[str, Any]:
        return {"mean": round(self.mean, 6), "std": round(self.std, 6), "interval": self.interval}


@dataclass(frozen=True)
class Predictions:
    """Predictions of many networks on all test examples, and the metrics derived from them.

    `predicted` holds labels of the data set, `confidence` their probabilities; an example counts for a
    network where `counted` is true.
    """

    predicted: Int[Tensor, "networks examples"]
    confidence: Float[Tensor, "networks examples"]
    counted: Tensor
    labels: Int[Tensor, " examples"]
    accuracy: Float[Tensor, " networks"]

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several groups of networks, evaluated on the same examples, one after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.predicted for part in parts]),
            torch.cat([part.confidence for part in parts]),
            torch.cat([part.counted for part in parts]),
            parts[0].labels,
            torch.cat([part.accuracy for part in parts]),
        )

    @property
    def wrong(self) -> Tensor:
        """Which counted examples each network gets wrong: (networks, examples)."""
        return (self.predicted != self.labels) & self.counted

    @property
    def calibration(self) -> Float[Tensor, " networks"]:
        """Expected calibration error of each network, a fraction."""
        return calibration_error(self.confidence, self.predicted == self.labels, self.counted)

    def recall(self, classes: int) -> Float[Tensor, "networks classes"]:
        """The share of each class's examples that each network gets right; NaN for classes it does not know."""
        right = ((self.predicted == self.labels) & self.counted).double()
        member = torch.nn.functional.one_hot(self.labels, classes).double()
        return (right @ member) / (self.counted.double() @ member)

    @property
    def balanced_accuracy(self) -> Float[Tensor, " networks"]:
        """Mean recall of each network's classes: what its accuracy is where all have as many examples."""
        return self.recall(int(self.labels.max()) + 1).nanmean(dim=1)

    def confusion(self, classes: int) -> Float[Tensor, "classes classes"]:
        """The share of each class's examples (rows) that were taken for each class, over all networks; NaN where none."""
        pairs = torch.stack(
            [self.labels.expand_as(self.predicted)[self.counted], self.predicted[self.counted]]
        )
        counts = (
            torch.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).double().view(classes, -1)
        )
        return counts / counts.sum(dim=1, keepdim=True)

    def by_class(self, names: Sequence[str]) -> dict[str, float]:
        """Mean accuracy on each class, over the networks that know it."""
        return named(self.recall(len(names)).nanmean(dim=0), names)


def named(by_class: Float[Tensor, " classes"], names: Sequence[str]) -> dict[str, float]:
    """Figures by the names of their classes, without those that no network knows (NaN)."""
    return {n: round(v, 6) for n, v in zip(names, by_class.tolist(), strict=True) if not math.isnan(v)}


def evaluate_networks(
    architecture: Architecture, state: StateDict, tasks: Sequence[Task], split: Split | None = None
) -> Predictions:
    """Run stacked networks on the test images of their data set, or on another `split` to choose settings on."""
    data = tasks[0].data
    test = split or data.test.open_for_evaluation()
    architecture.require_inputs(data.input_shape, f"data set '{data.name}'")  # it may have changed since
    answers = predict_labels(architecture, state, test.inputs, data, tasks, labels=test.labels)
    return Predictions(
        credit_union_members(answers.labels, test.labels, data, tasks),
        answers.confidence,
        in_task(test.labels, data, tasks),
        test.labels,
        accuracies(answers.labels, test.labels, data, tasks),
    )


def examples_of(task: Task, images: str, count: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """A few test examples of a task's classes in turn: rows of the test split, raw pictures (none where `images` are no
    pictures), and the pictures' shape."""
    data, pictures = task.data, datasets.load(images)
    labels = data.test.open_for_evaluation().labels
    own = [(labels == label).nonzero().flatten() for label in data.class_index(task.classes)]
    rows = torch.tensor(
        [own[i % len(own)][i // len(own)] for i in range(count) if i // len(own) < len(own[i % len(own)])]
    )
    shape = pictures.picture_shape
    if not shape or len(pictures.test) != len(data.test):
        return rows, torch.empty(0), ()
    split = pictures.test.open_for_evaluation()
    if isinstance(split.inputs, StoredInputs):
        raw = split.inputs.stored[split.inputs.rows[rows]].float() / pictures.preprocessing.divisor
    else:
        raw = pictures.preprocessing.undone(split.inputs[rows]) / pictures.preprocessing.divisor
    return rows, raw.view(len(rows), *shape).clamp(0, 1), shape


def evaluate_ensembles(
    architecture: Architecture,
    state: StateDict,
    task: Task,
    sizes: Sequence[int],
    split: Split | None = None,
) -> dict[int, float]:
    """Accuracy of ensembles of the first so many stacked networks, which average their probabilities.

    Sizes beyond the number of networks are left out. Examples as of `evaluate_networks`.
    """
    data = task.data
    test = split or data.test.open_for_evaluation()
    position = class_table(data, [task], len(task.classes))[0][0]
    own = (position[test.labels] >= 0).nonzero().squeeze(1)
    p = probabilities(architecture, state, test.inputs[own], data, task)
    truth = position[test.labels[own]]
    return {
        size: float((p[:size].mean(0).argmax(-1) == truth).double().mean())
        for size in sizes
        if size <= len(p)
    }


def describe(predictions: Predictions, architecture: Architecture) -> dict[str, Any]:
    """Summary of a population for reports: number, kind and accuracy."""
    return {
        "count": len(predictions.accuracy),
        "architecture": architecture.to_dict(),
        "accuracy": {
            **Spread.of(predictions.accuracy).to_dict(),
            "max": round(float(predictions.accuracy.max()), 6),
        },
        "balanced_accuracy": Spread.of(predictions.balanced_accuracy).to_dict(),
        "calibration_error": Spread.of(predictions.calibration).to_dict(),
    }


@torch.no_grad()
def evaluate_jointly(
    architecture: Architecture, members: Sequence[tuple[StateDict, Task]], task: Task
) -> float:
    """Accuracy on `task` of networks for parts of it that answer together, a fraction.

    Each gives probabilities to its own classes (stacks of one); a class has the mean over those who know it.
    """
    data = task.data
    test = data.test.open_for_evaluation()
    rows = torch.nonzero(in_task(test.labels, data, [task])[0]).squeeze(1)
    inputs, forward = test.inputs[rows].unsqueeze(0), forward_many(architecture)
    total, count = torch.zeros(len(rows), len(data.class_names)), torch.zeros(len(data.class_names))
    for state, own in members:
        labels = data.class_index(own.classes)
        targets = architecture.readout.targets([own.classes], len(labels))
        scores = architecture.readout.scores(forward(state, inputs), targets)
        total[:, labels] += scores[0, :, : len(labels)].softmax(-1)
        count[labels] += 1
    predicted = (total / count.clamp(min=1)).argmax(-1)
    return float((predicted == test.labels[rows]).double().mean())
