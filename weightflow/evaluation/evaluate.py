"""Judge networks on test images. This is the one place that opens them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow import datasets
from weightflow.batched.inference import accuracies, answer_many, forward_many, in_task, probabilities
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.batched.tasks import Task
from weightflow.evaluation import bootstrap
from weightflow.evaluation.calibration import calibration_error
from weightflow.networks.architectures import Architecture
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over networks, and the bootstrap interval (95 %) of the mean."""

    mean: float
    std: float
    interval: list[float] | None = None

    @classmethod
    def of(cls, values: Float[Tensor, " networks"]) -> Spread:
        found = bootstrap.interval(values, torch.Generator().manual_seed(0))
        return cls(found.mean, float(values.double().std(correction=0)), found.ends())

    def to_dict(self) -> dict[str, Any]:
        return {"mean": round(self.mean, 6), "std": round(self.std, 6), "interval": self.interval}


@dataclass(frozen=True)
class Judged:
    """What many networks say of all test examples, and what follows from it.

    `predicted` holds labels of the data set, `confidence` their probabilities; an example counts for a
    network where `counted` is true.
    """

    predicted: Int[Tensor, "networks examples"]
    confidence: Float[Tensor, "networks examples"]
    counted: Tensor
    labels: Int[Tensor, " examples"]
    accuracy: Float[Tensor, " networks"]

    @classmethod
    def joined(cls, parts: Sequence[Judged]) -> Judged:
        """Several groups of networks, judged on the same examples, one after another."""
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

    def by_class(self, names: Sequence[str]) -> dict[str, float]:
        """Mean accuracy on each class, over the networks that know it."""
        right = (self.predicted == self.labels) & self.counted
        found = {}
        for label, name in enumerate(names):
            own = self.labels == label
            knows = self.counted[:, own].any(dim=1)
            if bool(knows.any()):
                found[name] = round(float(right[knows][:, own].double().mean()), 6)
        return found


def judge(architecture: Architecture, state: StateDict, tasks: Sequence[Task]) -> Judged:
    """Run stacked networks on the test images of their data set."""
    data = datasets.load(tasks[0].dataset)
    test = data.test.open_for_evaluation()
    answers = answer_many(architecture, state, test.inputs, data, tasks, labels=test.labels)
    return Judged(
        answers.labels,
        answers.confidence,
        in_task(test.labels, data, tasks),
        test.labels,
        accuracies(answers.labels, test.labels, data, tasks),
    )


def judge_ensembles(
    architecture: Architecture, state: StateDict, task: Task, sizes: Sequence[int]
) -> dict[int, float]:
    """Accuracy of ensembles of the first so many stacked networks, which average their probabilities.

    Sizes beyond the number of networks are left out.
    """
    data = datasets.load(task.dataset)
    test = data.test.open_for_evaluation()
    index = torch.tensor(data.class_index(task.classes))
    own = torch.isin(test.labels, index).nonzero().squeeze(1)
    p = probabilities(architecture, state, test.inputs[own], data, task)
    truth = test.labels[own]
    return {
        size: float((index[p[:size].mean(0).argmax(-1)] == truth).double().mean())
        for size in sizes
        if size <= len(p)
    }


def chance(tasks: Sequence[Task]) -> float:
    """Mean accuracy of guessing evenly among each task's classes."""
    return sum(1 / len(task.classes) for task in tasks) / len(tasks)


def describe(judged: Judged, architecture: Architecture) -> dict[str, Any]:
    """A population in the words of a report: how many, of what kind, how good."""
    return {
        "count": len(judged.accuracy),
        "architecture": architecture.to_dict(),
        "accuracy": {
            **Spread.of(judged.accuracy).to_dict(),
            "max": round(float(judged.accuracy.max()), 6),
        },
        "calibration_error": Spread.of(judged.calibration).to_dict(),
    }


def evaluate_zoo(
    networks: Zoo | StackedNetworks, progress: Callable[[int], None] = lambda networks: None
) -> dict[str, Any]:
    """Test accuracy of every network, overall, by split, by class and by prompt; ensembles.

    Of a zoo one shard is in memory at a time.
    """
    if len(networks) == 0:
        raise InputError(f"{networks!r} holds no network")
    tasks, architecture = _tasks(networks), networks.architecture
    found = []
    for part in _parts(networks):
        found.append(judge(architecture, part.state, part.tasks))
        progress(len(part))
    judged = Judged.joined(found)
    return {
        "zoo": describe(judged, architecture),
        "chance": round(chance(tasks), 6),
        "splits": {
            name: Spread.of(judged.accuracy[rows]).to_dict()
            for name, rows in _grouped([task.split for task in tasks]).items()
        },
        "classes": judged.by_class(datasets.load(tasks[0].dataset).class_names),
        "prompts": [
            {
                "classes": list(classes),
                "networks": len(rows),
                **Spread.of(judged.accuracy[rows]).to_dict(),
                **_together(networks, rows),
            }
            for classes, rows in _grouped([task.classes for task in tasks]).items()
        ],
    }


def _tasks(networks: Zoo | StackedNetworks) -> list[Task]:
    if isinstance(networks, StackedNetworks):
        return list(networks.tasks)
    return [record.task for record in networks.records]


def _parts(networks: Zoo | StackedNetworks) -> Iterator[StackedNetworks]:
    """All networks in their order, a shard of a zoo at a time."""
    if isinstance(networks, StackedNetworks):
        yield networks
        return
    for _, rows in groupby(range(len(networks)), lambda row: networks.records[row].shard):
        yield networks.stacked(rows)


@torch.no_grad()
def judge_together(
    architecture: Architecture, members: Sequence[tuple[StateDict, Task]], task: Task
) -> float:
    """Accuracy on `task` of networks for parts of it that answer together, a fraction.

    Each gives probabilities to its own classes (stacks of one); a class has the mean over those who know it.
    """
    data = datasets.load(task.dataset)
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


def _together(networks: Zoo | StackedNetworks, rows: list[int]) -> dict[str, Any]:
    if len(rows) < 2:
        return {"ensemble": None, "ensemble_reason": "one network is no ensemble"}
    own = networks[rows] if isinstance(networks, StackedNetworks) else networks.stacked(rows)
    accuracy = judge_ensembles(networks.architecture, own.state, own.tasks[0], [len(rows)])[len(rows)]
    return {"ensemble": round(accuracy, 6)}


def _grouped(keys: Sequence[Any]) -> Mapping[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups
