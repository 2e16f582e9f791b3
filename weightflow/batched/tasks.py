"""Tasks: ordered choices of classes. Which combinations the generator may see is fixed by the seed.

A combination is a set of classes; its order is the order of the logits. Combinations are dealt into
three splits once: `seen` (the generator trains on their networks), `validation` (checkpoints are
chosen on them) and `unseen_combinations` (touched by evaluation alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from canon.errors import InputError
from weightflow import datasets
from weightflow.data.class_groups import OR, OTHER
from weightflow.data.types import ClassificationData


@dataclass(frozen=True)
class Task:
    """A data set and an ordered tuple of its classes, in logit order.

    Example:
        >>> import weightflow
        >>> weightflow.Task("digits", ("three", "seven")).split
        'seen'
    """

    dataset: str
    classes: tuple[str, ...]
    split: str = "seen"

    @property
    def data(self) -> ClassificationData:
        """The data set, read once a process."""
        return datasets.load(self.dataset)


def deal_combinations(
    class_names: Sequence[str],
    sizes: tuple[int, int],
    *,
    validation_fraction: float,
    unseen_fraction: float,
    seed: int,
    limit: int = 100_000,
) -> dict[str, list[tuple[str, ...]]]:
    """Every combination of `sizes[0]` to `sizes[1]` classes, dealt into splits.

    Where there are more than `limit`, as many are drawn at random; the fractions hold for those.
    """
    low, high = sizes
    if not 2 <= low <= high <= len(class_names):
        raise InputError(f"tasks of {low} to {high} classes cannot be cut from {len(class_names)} classes")
    rng = np.random.default_rng(seed)
    if sum(comb(len(class_names), k) for k in range(low, high + 1)) <= limit:
        pool = [c for k in range(low, high + 1) for c in combinations(class_names, k)]
    else:
        drawn = {
            tuple(sorted(rng.choice(len(class_names), rng.integers(low, high + 1), replace=False)))
            for _ in range(limit)
        }
        pool = [tuple(class_names[i] for i in chosen) for chosen in sorted(drawn)]
    return _dealt(pool, validation_fraction, unseen_fraction, rng)


def deal_groupings(
    class_names: Sequence[str],
    sizes: tuple[int, int],
    *,
    unions: tuple[int, int],
    other: float,
    validation_fraction: float,
    unseen_fraction: float,
    seed: int,
    limit: int = 20_000,
) -> dict[str, list[tuple[str, ...]]]:
    """Random groupings of classes, dealt into splits: no two are of the same classes in the same unions.

    A grouping has `sizes[0]` to `sizes[1]` classes, each made of `unions[0]` to `unions[1]` of `class_names`; in the
    share `other` of them one is all classes that are left.
    """
    low, high = sizes
    if low < 2 or low * unions[0] > len(class_names):
        raise InputError(
            f"tasks of {low} to {high} classes, each made of {unions[0]} to {unions[1]}, cannot be cut from "
            f"{len(class_names)} classes"
        )
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, ...], None] = {}
    for _ in range(limit):
        rest = rng.random() < other
        named = int(rng.integers(low, high + 1)) - rest
        counts = rng.integers(unions[0], unions[1] + 1, named)
        if counts.sum() + rest > len(class_names):
            continue
        order = rng.permutation(len(class_names))
        cut = np.split(order[: counts.sum()], np.cumsum(counts)[:-1])
        grouping = [OR.join(class_names[i] for i in sorted(own)) for own in sorted(map(sorted, cut))]
        found[tuple(grouping + [OTHER] * rest)] = None
    return _dealt(list(found), validation_fraction, unseen_fraction, rng)


def _dealt(
    pool: Sequence[tuple[str, ...]],
    validation_fraction: float,
    unseen_fraction: float,
    rng: np.random.Generator,
) -> dict[str, list[tuple[str, ...]]]:
    order = rng.permutation(len(pool))
    unseen = round(unseen_fraction * len(pool))
    validation = round(validation_fraction * len(pool))
    return {
        "unseen_combinations": [pool[i] for i in order[:unseen]],
        "validation": [pool[i] for i in order[unseen : unseen + validation]],
        "seen": [pool[i] for i in order[unseen + validation :]],
    }


def draw_tasks(
    dataset: str,
    pool: Sequence[tuple[str, ...]],
    count: int,
    split: str,
    seed: int,
    *,
    shuffled: bool = True,
) -> list[Task]:
    """`count` tasks: every combination once before any twice, each in a random logit order.

    Where they are not `shuffled`, logits stand in the order of the combination.
    """
    rng = np.random.default_rng(seed)
    if not pool:
        raise InputError(
            f"no combination of classes is left for the split '{split}'; ask for no network of it, or take more classes or sizes of tasks"
        )
    tasks: list[Task] = []
    while len(tasks) < count:
        for index in rng.permutation(len(pool))[: count - len(tasks)]:
            chosen = pool[index]
            order = rng.permutation(len(chosen)) if shuffled else range(len(chosen))
            tasks.append(Task(dataset, tuple(chosen[i] for i in order), split))
    return tasks
