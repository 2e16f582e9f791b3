"""Predictions of many networks on the same examples, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from canon.types import StateDict
from weightflow.batched.class_axes import class_table
from weightflow.batched.evaluation_mode import in_evaluation_mode
from weightflow.batched.group_size import networks_per_group
from weightflow.batched.over_networks import Forward, call, over_networks
from weightflow.batched.tasks import Task
from weightflow.datasets import ClassificationData, StoredInputs
from weightflow.device import usable_device
from weightflow.networks.architectures import Architecture

Inputs = Float[Tensor, "examples ..."] | StoredInputs


@dataclass(frozen=True)
class PredictedLabels:
    """The label (in the data set's numbering) that each network predicts, and its probability."""

    labels: Int[Tensor, "networks examples"]
    confidence: Float[Tensor, "networks examples"]


def forward_many(architecture: Architecture) -> Forward:
    """A function of stacked states and inputs (networks, batch, *shape) to outputs (networks, batch, ...).

    `architecture.readout` makes scores of classes out of them.
    """
    skeleton = in_evaluation_mode(architecture.build().to("meta"))
    return over_networks(skeleton)


@torch.no_grad()
def predict_labels(
    architecture: Architecture,
    state: StateDict,
    inputs: Inputs,
    data: ClassificationData,
    tasks: Sequence[Task],
    chunk: int = 0,
    examples: int = 2048,
    labels: Int[Tensor, " examples"] | None = None,
) -> PredictedLabels:
    """The prediction of each stacked network for each example, and its probability.

    `chunk` networks (0: as many as are fast) are run on `examples` examples at a time: that bounds the
    memory. Where the examples' own `labels` are given, networks are run only on those that belong to a task
    of their chunk; what is left out is -1, of confidence 0.
    """
    label_of = _label_of_logit(architecture, data, tasks)
    found = PredictedLabels(torch.full((len(tasks), len(inputs)), -1), torch.zeros(len(tasks), len(inputs)))
    for rows, some, logits in _logits(architecture, state, inputs, data, tasks, chunk, examples, labels):
        best, place = logits.max(-1)
        found.labels[rows[:, None], some] = label_of[rows].gather(1, place)
        found.confidence[rows[:, None], some] = (best - logits.logsumexp(-1)).exp()
    return found


def predict_many(
    architecture: Architecture,
    state: StateDict,
    inputs: Inputs,
    data: ClassificationData,
    tasks: Sequence[Task],
    chunk: int = 0,
    examples: int = 2048,
    labels: Int[Tensor, " examples"] | None = None,
) -> Int[Tensor, "networks examples"]:
    """The labels of `predict_labels`."""
    return predict_labels(architecture, state, inputs, data, tasks, chunk, examples, labels).labels


@torch.no_grad()
def probabilities(
    architecture: Architecture, state: StateDict, inputs: Inputs, data: ClassificationData, task: Task
) -> Float[Tensor, "networks examples classes"]:
    """The probability that each network of one task gives to each of the task's classes."""
    count = len(next(iter(state.values())))
    found = torch.empty(count, len(inputs), len(task.classes))
    for rows, some, logits in _logits(architecture, state, inputs, data, [task] * count, 0, 2048):
        found[rows[:, None], some] = logits[..., : len(task.classes)].softmax(-1)
    return found


def _label_of_logit(architecture: Architecture, data: ClassificationData, tasks: Sequence[Task]) -> Tensor:
    """Logit to label, the first where a class is a union of several."""
    positions, mask = class_table(data, tasks, architecture.classes)
    found = torch.full(mask.shape, len(data.class_names))
    labels = torch.arange(len(data.class_names)).expand_as(positions)
    place = torch.where(positions < 0, mask.shape[1], positions)
    padded = torch.nn.functional.pad(found, (0, 1), value=len(data.class_names))
    return padded.scatter_reduce(1, place, labels, "amin")[:, :-1]


def _logits(
    architecture: Architecture,
    state: StateDict,
    inputs: Inputs,
    data: ClassificationData,
    tasks: Sequence[Task],
    chunk: int,
    examples: int,
    labels: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, examples and their scores (rows, examples, classes), those outside the task at minus infinity."""
    positions, mask = class_table(data, tasks, architecture.classes)
    skeleton = in_evaluation_mode(architecture.build().to("meta"))
    chunk = chunk or networks_per_group(architecture)
    forward = _alone(skeleton) if chunk == 1 else over_networks(skeleton, shared=True)
    text = architecture.readout.targets([task.classes for task in tasks], architecture.classes)
    device = usable_device()
    # examples outermost: they are read and preprocessed once
    for some in torch.arange(len(inputs)).split(examples):
        batch = inputs[some]
        for rows in torch.arange(len(tasks)).split(chunk):
            own = torch.ones(len(some), dtype=torch.bool)
            if labels is not None:
                own = (positions[rows] >= 0).any(0)[labels[some]]
            part = {name: tensor[rows].to(device) for name, tensor in state.items()}
            output = forward(part, batch[own].to(device))
            scores = architecture.readout.scores(output, text[rows].to(device)).cpu()
            yield rows, some[own], scores.masked_fill(~mask[rows].unsqueeze(1), -torch.inf)


def _alone(skeleton: nn.Module) -> Forward:
    return lambda state, inputs: call(skeleton, {n: t[0] for n, t in state.items()}, inputs).unsqueeze(0)


def in_task(labels: Int[Tensor, " examples"], data: ClassificationData, tasks: Sequence[Task]) -> Tensor:
    """Which examples belong to each task's classes: (networks, examples)."""
    return (_positions(data, tasks) >= 0)[:, labels]


def _positions(data: ClassificationData, tasks: Sequence[Task]) -> Tensor:
    return class_table(data, tasks, max(len(task.classes) for task in tasks))[0]


def credit_union_members(
    predicted: Int[Tensor, "networks examples"],
    labels: Int[Tensor, " examples"],
    data: ClassificationData,
    tasks: Sequence[Task],
) -> Int[Tensor, "networks examples"]:
    """Predictions in which every member of a union is right for each other: such an example's own label."""
    positions = _positions(data, tasks)
    said = positions.gather(1, predicted.clamp(min=0))
    truth = positions[:, labels]
    return torch.where((predicted >= 0) & (said == truth) & (truth >= 0), labels, predicted)


def accuracies(
    predicted: Int[Tensor, "networks examples"],
    labels: Int[Tensor, " examples"],
    data: ClassificationData,
    tasks: Sequence[Task],
) -> Float[Tensor, " networks"]:
    """Accuracy of each network, a fraction, over the examples of its own classes."""
    counted = in_task(labels, data, tasks)
    return ((credit_union_members(predicted, labels, data, tasks) == labels) & counted).sum(1) / counted.sum(
        1
    )
