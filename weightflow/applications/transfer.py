"""Transfer: fine-tune networks on other data for a few epochs.

Every network becomes the start of one for the same classes of other data, last layer included: its rows
stand for other classes now, and training turns them. Starts that are compared get the same tasks, the
same mini-batches and the same recipe, and differ by their first weights alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import ceil

import torch
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow.batched.class_axes import class_table, pad_with_zeros
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.batched.training import check_inputs, steps_to_each, train_to_each
from weightflow.datasets import ClassificationData, Split
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.networks.architectures import Architecture
from weightflow.zoo.store import Zoo

Accuracies = dict[str, dict[int, Tensor]]


def transfer(
    architecture: Architecture,
    starts: Mapping[str, StateDict],
    task: Task,
    epochs: Sequence[int],
    recipe: TrainingRecipe,
    images: int | None = None,
    progress: Callable[[int], None] = lambda steps: None,
    expect: Callable[[int], None] = lambda steps: None,
    finished: Callable[[str, dict[int, Tensor]], None] = lambda start, accuracies: None,
) -> Accuracies:
    """Test accuracy (networks,) on `task` of each start after so many epochs, fractions.

    `starts` are stacks of networks of one architecture. `images`: training images of each class, all by
    default. The steps of `recipe` are replaced by those of the epochs. Network i of every start has seed i.
    `progress` is told of steps, each network's counted, after `expect` was told how many there are; `finished` of
    each start and its accuracies as soon as they are known.
    """
    data = task.data
    check_inputs(architecture, data)
    seen = few_examples(data, task, images)
    examples = int((class_table(seen, [task], architecture.classes)[0][0][seen.train.labels] >= 0).sum())
    found: Accuracies = {name: {} for name in starts}
    steps = {count: ceil(examples * count / recipe.batch_size) for count in epochs}
    networks = {name: len(next(iter(start.values()))) for name, start in starts.items()}
    expect(sum(networks.values()) * steps_to_each(recipe, list(steps.values())))
    for name, start in starts.items():
        tasks = [task] * networks[name]
        mask = class_table(data, tasks, architecture.classes)[1]
        begin = pad_with_zeros(architecture, dict(start), mask)
        trained = train_to_each(
            architecture, seen, tasks, range(len(tasks)), recipe, list(steps.values()), begin, progress
        )
        for count in epochs:
            found[name][count] = evaluate_networks(architecture, trained[steps[count]], tasks).accuracy
        finished(name, found[name])
    return found


def few_examples(data: ClassificationData, task: Task, images: int | None) -> ClassificationData:
    """The data with the first `images` training examples of each class of the task."""
    if images is None:
        return data
    if images < 1:
        raise InputError(f"{images} images of each class; at least 1 is needed")
    labels = data.train.labels
    rows = torch.cat(
        [torch.nonzero(labels == label).squeeze(1)[:images] for label in data.class_index(task.classes)]
    )
    return dataclasses.replace(data, train=Split(data.train.inputs[rows], labels[rows]))


def starts_of(zoo: Zoo, classes: int, count: int) -> StateDict:
    """Up to `count` networks of a zoo that tell `classes` classes apart; `InputError` where it has none."""
    rows = [i for i, record in enumerate(zoo.records) if len(record.classes) == classes][:count]
    if not rows:
        sizes = sorted({len(record.classes) for record in zoo.records})
        raise InputError(
            f"{zoo.path} has no network of {classes} classes; it has networks of {', '.join(map(str, sizes))}"
        )
    return zoo.load(rows)


def random_starts(architecture: Architecture, count: int, recipe: TrainingRecipe) -> StateDict:
    """`count` networks as the recipe initialises them."""
    return initialise(architecture, range(count), recipe.initialiser)
