"""The evaluation context: a generator and the networks that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow.batched.class_axes import class_table, pad_with_zeros, scatter_classes, with_num_classes
from weightflow.batched.tasks import Task
from weightflow.datasets import ClassificationData
from weightflow.flow.sampling_config import SampleConfig
from weightflow.folders import is_saved_generator
from weightflow.generator.generator import Flow
from weightflow.zoo.canonicalize import is_canonical
from weightflow.zoo.data_changes import warn_of_changes
from weightflow.zoo.store import Zoo

IN_MEMORY = 2**29
"""Bytes of a zoo that is held in memory; a larger one is read again by whoever walks over it."""

PART = 2**8
"""Networks of a larger zoo that are in memory at once."""


@dataclass(frozen=True)
class EvaluationContext:
    """A generator, its zoo and how to sample; `rows` and `tasks` are of the networks it was trained on.

    At most `limit` of these are measured themselves, `some` in their order; all by default. Stacks are *wide* where
    they have one logit for every class of the data set, absent ones zero.
    """

    flow: Flow
    zoo: Zoo
    config: SampleConfig
    limit: int | None = None

    def __reduce__(self) -> tuple[Callable[..., EvaluationContext], tuple[Any, ...]]:
        """Workers read the zoo themselves, each once."""
        return _reopened, (self.flow, self.zoo, self.config, self.limit)

    @cached_property
    def rows(self) -> list[int]:
        return self.zoo.rows("seen")

    @cached_property
    def tasks(self) -> list[Task]:
        return self.tasks_of(self.rows)

    @cached_property
    def some(self) -> list[int]:
        """Positions in `rows` of the networks that are measured for the zoo."""
        return list(range(len(self.rows)))[: self.limit]

    @cached_property
    def some_tasks(self) -> list[Task]:
        return [self.tasks[i] for i in self.some]

    @cached_property
    def some_state(self) -> StateDict:
        return self.picked(self.some)

    def tasks_of(self, rows: list[int]) -> list[Task]:
        return [self.zoo.records[i].task for i in rows]

    def parts(self) -> Iterator[tuple[Tensor, StateDict]]:
        """All training networks, a part at a time: positions in `rows`, and the wide networks there."""
        if self._wide is not None:
            yield torch.arange(len(self.rows)), self._wide
            return
        for positions, state in self.zoo.by_shard(self.rows):
            for begin in range(0, len(positions), PART):
                here, some = positions[begin : begin + PART], slice(begin, begin + PART)
                yield here, self._widened({name: t[some] for name, t in state.items()}, here.tolist())

    def picked(self, positions: Sequence[int]) -> StateDict:
        """The training networks at these positions in `rows`, as they are."""
        return self.zoo.load([self.rows[i] for i in positions])

    def picked_wide(self, positions: Sequence[int]) -> StateDict:
        """The same, wide."""
        if self._wide is not None:
            return {name: tensor[list(positions)] for name, tensor in self._wide.items()}
        return self._widened(self.picked(positions), positions)

    @cached_property
    def _wide(self) -> StateDict | None:
        """All training networks; None where they are larger than `IN_MEMORY`."""
        wide = with_num_classes(self.zoo.architecture, len(self.data.class_names))
        if 4 * len(self.rows) * wide.parameters > IN_MEMORY:
            return None
        return self._widened(self.zoo.load(self.rows), range(len(self.rows)))

    def _widened(self, state: StateDict, positions: Sequence[int]) -> StateDict:
        return scatter_classes(self.zoo.architecture, state, [self.tasks[i] for i in positions])

    @cached_property
    def has_class(self) -> Tensor:
        """Which classes each network knows: (networks, classes of the data set)."""
        return self.classes_of(self.tasks)

    @cached_property
    def mean(self) -> StateDict:
        """Mean of the zoo, wide: each class's rows over the networks that know it; counters are of the first."""
        total = summed(wide for _, wide in self.parts())
        return {n: t / self.count[n].clamp(min=1) if t.is_floating_point() else t for n, t in total.items()}

    @cached_property
    def count(self) -> StateDict:
        """How many training networks have each entry of a wide network."""
        return {name: t.sum(0) for name, t in self.used_at(range(len(self.rows))).items()}

    @cached_property
    def data(self) -> ClassificationData:
        """The data set of the networks' tasks."""
        return self.zoo.data

    @cached_property
    def is_canonical(self) -> bool:
        return is_canonical(self.zoo)

    @cached_property
    def one_task(self) -> bool:
        """Whether all its networks tell the same classes apart, so that prompts make no difference."""
        return len({frozenset(task.classes) for task in self.tasks}) == 1

    def classes_of(self, tasks: Sequence[Task]) -> Tensor:
        """Which classes of the data set each task has: (tasks, classes)."""
        return class_table(self.data, tasks, self.zoo.architecture.classes)[0] >= 0

    def used_at(self, positions: Sequence[int]) -> StateDict:
        """As `used_by`, for training networks."""
        return self._used(self.has_class[list(positions)])

    def used_by(self, tasks: Sequence[Task]) -> StateDict:
        """1 for every entry of wide networks of these tasks that belongs to a class the network knows, else 0."""
        return self._used(self.classes_of(tasks))

    def _used(self, has: Tensor) -> StateDict:
        """By the classes that each network knows; tensors that know no classes take no memory."""
        wide = with_num_classes(self.zoo.architecture, has.shape[1])
        ones = {name: torch.ones(()).expand(len(has), *shape) for name, shape in wide.shapes.items()}
        return pad_with_zeros(wide, ones, has)


@lru_cache(maxsize=1)
def _reopened(flow: Flow, zoo: Zoo, config: SampleConfig, limit: int | None) -> EvaluationContext:
    return EvaluationContext(flow, zoo, config, limit)


def summed(parts: Iterable[StateDict]) -> StateDict:
    """The sum over all stacked networks of all parts; counters are of the first."""
    total: StateDict = {}
    for part in parts:
        for name, t in part.items():
            if t.is_floating_point():
                total[name] = total[name] + t.sum(0) if name in total else t.sum(0)
            else:
                total.setdefault(name, t[0])
    return total


def open_context(
    folder: Path, config: SampleConfig | None = None, limit: int | None = None
) -> EvaluationContext:
    """The run, its zoo and how to sample, by default the run's own way.

    `InputError` where the zoo is gone or is not the one it was trained on.
    """
    flow = Flow(folder)
    reference = flow.header.zoo
    if not Path(reference.path).is_dir() and is_saved_generator(folder):
        raise InputError(
            f"{folder} is a saved generator, without its zoo; report on the run that it was saved from, or measure "
            f"networks of it: weightflow sample {folder} --classes ... --out NETS, then weightflow evaluate NETS"
        )
    if not Path(reference.path).is_dir():
        raise InputError(f"the zoo of {folder} is no longer at {reference.path}; restore it or train again")
    zoo = Zoo(reference.path)
    if zoo.identity != reference.identity:
        raise InputError(
            f"the zoo at {reference.path} has changed since {folder} was trained on it "
            f"({zoo.identity[:12]}, then {reference.identity[:12]}); train again, or restore it"
        )
    warn_of_changes(zoo)
    return EvaluationContext(flow, zoo, config or flow.sampling, limit)
