"""What a generator must beat. Each baseline answers the same prompts with networks of its own.

`zoo_mean` and `nearest_prompt` take networks as they are. Their `_rows` forms know which row stands for
which class, and pick and reorder rows for the prompt: the strongest forms, and no baselines of straw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weightflow import datasets
from weightflow.canonicalize import gather_classes, scatter_classes, widen
from weightflow.sample import Flow, SampleConfig
from weightflow.text import Prompt
from weightflow.zoo.logits import State, pad_with_zeros
from weightflow.zoo.store import Zoo
from weightflow.zoo.tasks import Task


@dataclass(frozen=True)
class Known:
    """The networks that the generator was trained on, and the generator."""

    flow: Flow
    zoo: Zoo

    @cached_property
    def rows(self) -> list[int]:
        return self.zoo.rows("seen")

    @cached_property
    def tasks(self) -> list[Task]:
        return [self.zoo.records[i].task for i in self.rows]

    @cached_property
    def state(self) -> State:
        return self.zoo.load(self.rows)

    @cached_property
    def wide(self) -> State:
        """Stacked networks with one logit for every class of the data set, absent ones zero."""
        return scatter_classes(self.zoo.architecture, self.state, self.tasks)

    @cached_property
    def has_class(self) -> Tensor:
        """Which classes each network knows: (networks, classes of the data set)."""
        data = datasets.load(self.zoo.dataset)
        has = torch.zeros(len(self.tasks), len(data.class_names), dtype=torch.bool)
        for row, task in enumerate(self.tasks):
            has[row, data.class_index(task.classes)] = True
        return has

    @cached_property
    def used(self) -> State:
        """1 for every entry of `wide` that belongs to a class the network knows, else 0."""
        wide = widen(self.zoo.architecture, self.has_class.shape[1])
        ones = {name: torch.ones_like(tensor) for name, tensor in self.wide.items()}
        return pad_with_zeros(wide, ones, self.has_class)

    @cached_property
    def mean(self) -> State:
        """Mean of the zoo, each class's rows over the networks that know it."""
        return {name: t.sum(0) / self.used[name].sum(0).clamp(min=1) for name, t in self.wide.items()}


def _for_tasks(known: Known, wide: State, tasks: Sequence[Task]) -> State:
    return gather_classes(known.zoo.architecture, wide, tasks)


def zoo_mean(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """The mean of the aligned networks as they are, each logit the mean of that logit."""
    return {name: t.mean(0).expand(len(tasks), *t.shape[1:]).clone() for name, t in known.state.items()}


def zoo_mean_rows(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """The mean of the aligned zoo with one mean row a class, put together for the classes asked for."""
    wide = {name: t.expand(len(tasks), *t.shape).clone() for name, t in known.mean.items()}
    return _for_tasks(known, wide, tasks)


def gaussian_pc(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """Samples of the Gaussian fitted in the zoo's principal components; absent rows count as the mean."""
    flat = torch.cat([((t - known.mean[n]) * known.used[n]).flatten(1) for n, t in known.wide.items()], dim=1)
    _, spread, directions = torch.linalg.svd(flat, full_matrices=False)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(tasks), len(spread), generator=generator)
    drawn = (z * spread / len(flat) ** 0.5) @ directions
    sizes = [t[0].numel() for t in known.wide.values()]
    wide = {
        name: known.mean[name] + part.reshape(len(tasks), *known.mean[name].shape)
        for name, part in zip(known.wide, drawn.split(sizes, dim=1), strict=True)
    }
    return _for_tasks(known, wide, tasks)


def nearest_prompt(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """The training network whose prompt, as an ordered list of as many classes, is nearest in text."""
    asked, theirs = _text(known, tasks), _text(known, known.tasks)
    distance = torch.cdist(asked.flatten(1), theirs.flatten(1))
    sizes, own = (torch.tensor([len(t.classes) for t in ts]) for ts in (tasks, known.tasks))
    distance[sizes.unsqueeze(1) != own] = torch.inf
    index = distance.argmin(dim=1)
    return {name: tensor[index] for name, tensor in known.state.items()}


def nearest_rows(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """The training network that knows most of the classes asked for, its rows picked and reordered.

    The strongest retrieval: where some training task includes all the classes, this is a trained
    network. Ties go to the smallest task.
    """
    wanted = torch.zeros(len(tasks), known.has_class.shape[1], dtype=torch.bool)
    for row, task in enumerate(tasks):
        wanted[row, datasets.load(task.dataset).class_index(task.classes)] = True
    shared = wanted.double() @ known.has_class.double().T
    index = (shared - known.has_class.sum(1) / 1000).argmax(dim=1)
    return _for_tasks(known, {name: tensor[index] for name, tensor in known.wide.items()}, tasks)


def shuffled_prompt(known: Known, tasks: Sequence[Task], seed: int) -> State:
    """Our own generator, given the prompt of another task with as many classes."""
    prompts = [Prompt(tasks[other].classes) for other in _derange(tasks)]
    return known.flow.sample(prompts, range(seed, seed + len(tasks)), SampleConfig())


BASELINES: dict[str, Callable[[Known, Sequence[Task], int], State]] = {
    "zoo_mean": zoo_mean,
    "zoo_mean_rows": zoo_mean_rows,
    "gaussian_pc": gaussian_pc,
    "nearest_prompt": nearest_prompt,
    "nearest_rows": nearest_rows,
    "shuffled_prompt": shuffled_prompt,
}


def _text(known: Known, tasks: Sequence[Task]) -> Tensor:
    return known.flow.prompts([Prompt(task.classes) for task in tasks]).vectors


def _derange(tasks: Sequence[Task]) -> list[int]:
    """For each task the next one with as many classes, other classes if there are any."""
    result = []
    for row, task in enumerate(tasks):
        order = [*range(row + 1, len(tasks)), *range(row)]
        fitting = [i for i in order if len(tasks[i].classes) == len(task.classes)]
        other = [i for i in fitting if set(tasks[i].classes) != set(task.classes)]
        result.append((other or fitting or [row])[0])
    return result
