"""What many networks say of the same examples, in one vmapped forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from weightflow.architectures import Architecture
from weightflow.datasets import ClassificationData, StoredInputs
from weightflow.zoo.company import together
from weightflow.zoo.logits import State, class_table
from weightflow.zoo.tasks import Task


def forward_many(architecture: Architecture) -> Callable[[State, Tensor], Tensor]:
    """A function of stacked states and inputs (networks, batch, *shape) to outputs (networks, batch, ...).

    `architecture.readout` makes scores of classes out of them.
    """
    skeleton = architecture.build().to("meta").eval()
    return vmap(partial(_call, skeleton))


@torch.no_grad()
def predict_many(
    architecture: Architecture,
    state: State,
    inputs: Float[Tensor, "examples ..."] | StoredInputs,
    data: ClassificationData,
    tasks: Sequence[Task],
    chunk: int = 0,
    examples: int = 2048,
) -> Int[Tensor, "networks examples"]:
    """The label, in the data set's numbering, that each network gives to each example.

    `chunk` networks (0: as many as are fast) are run on `examples` examples at a time: that bounds the
    memory.
    """
    positions, mask = class_table(data, tasks, architecture.classes)
    skeleton = architecture.build().to("meta").eval()
    chunk = chunk or together(architecture)
    forward = _alone(skeleton) if chunk == 1 else vmap(partial(_call, skeleton), in_dims=(0, None))
    # logit -> label: the inverse of label -> logit; labels outside the task sort to the end
    labels = torch.where(positions < 0, len(data.class_names), positions).argsort(dim=1)
    text = architecture.readout.targets([task.classes for task in tasks], architecture.classes)
    result = []
    for rows in torch.arange(len(tasks)).split(chunk):
        part = {name: tensor[rows] for name, tensor in state.items()}
        chosen = []
        for some in torch.arange(len(inputs)).split(examples):
            scores = architecture.readout.scores(forward(part, inputs[some]), text[rows])
            chosen.append(scores.masked_fill(~mask[rows].unsqueeze(1), -torch.inf).argmax(-1))
        result.append(labels[rows].gather(1, torch.cat(chosen, dim=1)))
    return torch.cat(result)


def _call(skeleton: nn.Module, state: State, inputs: Tensor) -> Tensor:
    return functional_call(skeleton, state, (inputs,))


def _alone(skeleton: nn.Module) -> Callable[[State, Tensor], Tensor]:
    return lambda state, inputs: _call(skeleton, {n: t[0] for n, t in state.items()}, inputs).unsqueeze(0)


def in_task(labels: Int[Tensor, " examples"], data: ClassificationData, tasks: Sequence[Task]) -> Tensor:
    """Which examples belong to each task's classes: (networks, examples)."""
    member = torch.zeros(len(tasks), len(data.class_names), dtype=torch.bool)
    for row, task in enumerate(tasks):
        member[row, data.class_index(task.classes)] = True
    return member[:, labels]


def accuracies(
    predicted: Int[Tensor, "networks examples"],
    labels: Int[Tensor, " examples"],
    data: ClassificationData,
    tasks: Sequence[Task],
) -> Float[Tensor, " networks"]:
    """Accuracy of each network, a fraction, over the examples of its own classes."""
    counted = in_task(labels, data, tasks)
    return ((predicted == labels) & counted).sum(1) / counted.sum(1)
