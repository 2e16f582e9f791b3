"""Class axes: networks with different numbers of classes are stacked by zero padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from canon.validation import Invalid, shown
from weightflow.batched.tasks import Task
from weightflow.datasets import ClassificationData
from weightflow.networks.architectures import Architecture


def class_table(data: ClassificationData, tasks: Sequence[Task], classes: int) -> tuple[Tensor, Tensor]:
    """Where each label of the data stands among a task's logits, and which logits it has.

    Returns positions (networks, labels of the data), -1 for labels that are not in the task, and a
    mask (networks, classes), true for logits in use.
    """
    positions = torch.full((len(tasks), len(data.class_names)), -1)
    mask = torch.zeros(len(tasks), classes, dtype=torch.bool)
    for row, task in enumerate(tasks):
        if len(task.classes) > classes:
            raise InputError(f"a task of {len(task.classes)} classes; the architecture has {classes} logits")
        for logit, labels in enumerate(data.class_labels(task.classes)):
            positions[row, labels] = logit
        mask[row, : len(task.classes)] = True
    return positions, mask


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each network (networks,) over the logits that its task has."""
    log_p = logits.masked_fill(~mask.unsqueeze(1), -torch.inf).log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        uniform = log_p.masked_fill(~mask.unsqueeze(1), 0).sum(-1) / mask.sum(-1, keepdim=True)
        loss = (1 - smoothing) * loss - smoothing * uniform
    return loss.mean(dim=1)


def pad_with_zeros(architecture: Architecture, state: StateDict, mask: Tensor) -> StateDict:
    """Zero the entries of logits that a network does not have; `mask` is (networks, classes)."""
    padded = {}
    for name, tensor in state.items():
        if name in architecture.class_axes:
            shape = [len(mask)] + [1] * (tensor.dim() - 1)
            shape[architecture.class_axes[name] + 1] = -1
            tensor = tensor * mask.view(shape)
        padded[name] = tensor
    return padded


@lru_cache(maxsize=16)
def with_num_classes(architecture: Architecture, classes: int) -> Architecture:
    """The same architecture with one logit for each of `classes`; one object, so that it is traced once."""
    return dataclasses.replace(architecture, classes=classes)


def check_frame(frame: Mapping[str, Tensor], architecture: Architecture, classes: int) -> None:
    """`Invalid` unless `frame` is one network of the architecture with a logit for each of the data's `classes`."""
    expected = with_num_classes(architecture, classes).shapes
    shapes = {name: tuple(tensor.shape) for name, tensor in frame.items()}
    if shapes != expected or not all(
        tensor.dtype == torch.float32 or name in architecture.counters for name, tensor in frame.items()
    ):
        raise Invalid(f"the frame is not a {shown(architecture.name)} of {classes} classes in float32")


def _logit_of_class(architecture: Architecture, tasks: Sequence[Task]) -> Tensor:
    return class_table(tasks[0].data, tasks, architecture.classes)[0]


def scatter_classes(architecture: Architecture, state: StateDict, tasks: Sequence[Task]) -> StateDict:
    """Stacked states with class axes reordered to the data set's classes; absent ones are zero."""
    return index_class_axes(architecture, state, _logit_of_class(architecture, tasks))


def gather_classes(architecture: Architecture, wide: StateDict, tasks: Sequence[Task]) -> StateDict:
    """The inverse: each task's logits out of all classes, padded with zeros to the architecture's.

    A union has the row of its first member; `scatter_classes` gave all members one row.
    """
    data = tasks[0].data
    index = torch.full((len(tasks), architecture.classes), -1)
    for row, task in enumerate(tasks):
        index[row, : len(task.classes)] = torch.tensor([own[0] for own in data.class_labels(task.classes)])
    return index_class_axes(architecture, wide, index)


def index_class_axes(architecture: Architecture, state: StateDict, index: Tensor) -> StateDict:
    """Entry i of each class axis becomes entry index[i] of the old one, or zero where that is -1."""
    moved = {}
    for name, tensor in state.items():
        axis = architecture.class_axes.get(name)
        if axis is not None:
            shape = [len(index)] + [1] * (tensor.dim() - 1)
            shape[axis + 1] = index.shape[1]
            wanted = index.view(shape)
            picked = torch.take_along_dim(tensor, wanted.clamp(min=0), dim=axis + 1)
            tensor = torch.where(wanted >= 0, picked, torch.zeros((), dtype=tensor.dtype))
        moved[name] = tensor
    return moved
