"""Judge networks on test images. This is the one place that opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from canon.errors import InputError
from weightflow import datasets
from weightflow.architectures import Architecture
from weightflow.zoo.logits import State
from weightflow.zoo.predict import accuracies, in_task, predict_many
from weightflow.zoo.store import Zoo
from weightflow.zoo.tasks import Task


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of accuracies, fractions of 1."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Float[Tensor, " networks"]) -> Spread:
        return cls(float(values.mean()), float(values.std(correction=0)))

    def to_dict(self) -> dict[str, float]:
        return {"mean": round(self.mean, 6), "std": round(self.std, 6)}


@dataclass(frozen=True)
class Judged:
    """Predictions of many networks on all test examples, and what follows from them.

    `predicted` holds labels of the data set; an example counts for a network where `counted` is true.
    """

    predicted: Int[Tensor, "networks examples"]
    counted: Tensor
    labels: Int[Tensor, " examples"]
    accuracy: Float[Tensor, " networks"]

    @property
    def wrong(self) -> Tensor:
        """Which counted examples each network gets wrong: (networks, examples)."""
        return (self.predicted != self.labels) & self.counted


def judge(architecture: Architecture, state: State, tasks: Sequence[Task]) -> Judged:
    """Run stacked networks on the test images of their data set."""
    data = datasets.load(tasks[0].dataset)
    test = data.test.open_for_evaluation()
    predicted = predict_many(architecture, state, test.inputs, data, tasks, labels=test.labels)
    return Judged(
        predicted,
        in_task(test.labels, data, tasks),
        test.labels,
        accuracies(predicted, test.labels, data, tasks),
    )


def chance(tasks: Sequence[Task]) -> float:
    """Mean accuracy of guessing evenly among each task's classes."""
    return sum(1 / len(task.classes) for task in tasks) / len(tasks)


def evaluate_zoo(zoo: Zoo) -> dict[str, Any]:
    """Test accuracy of every network of a zoo, overall and by prompt."""
    if len(zoo) == 0:
        raise InputError(f"{zoo.path} holds no network")
    tasks = [record.task for record in zoo.records]
    judged = judge(zoo.architecture, zoo.load(), tasks)
    by_prompt: dict[tuple[str, ...], list[float]] = {}
    for task, value in zip(tasks, judged.accuracy.tolist(), strict=True):
        by_prompt.setdefault(task.classes, []).append(value)
    return {
        "zoo": {
            "count": len(zoo),
            "architecture": zoo.architecture.to_dict(),
            "accuracy": {
                **Spread.of(judged.accuracy).to_dict(),
                "max": round(float(judged.accuracy.max()), 6),
            },
        },
        "chance": round(chance(tasks), 6),
        "prompts": [
            {"classes": list(classes), "networks": len(v), **Spread.of(torch.tensor(v)).to_dict()}
            for classes, v in by_prompt.items()
        ],
    }
