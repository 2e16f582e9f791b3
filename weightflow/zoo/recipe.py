"""What a zoo is built from: data set, architecture, tasks, training. Recipes are TOML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from canon.errors import InputError
from canon.validation import shown
from weightflow import config, datasets
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.tasks import Task, deal_combinations, deal_groupings, draw_tasks
from weightflow.data.types import ClassificationData
from weightflow.folders import wrong_kind
from weightflow.networks.architectures import Architecture
from weightflow.networks.readout import Logits, cosine
from weightflow.registry import pick, portable, suggest
from weightflow.seeds import check_seed
from weightflow.text import absolute, load_encoder
from weightflow.text.class_words import class_words, described
from weightflow.zoo.recipe_fitting import fitted

MOST_NETWORKS = 2_000_000
"""Of a zoo: their records are held in memory."""
LINEAGES = ("independent", "branched")


@dataclass(frozen=True)
class ArchitectureChoice:
    """An architecture's name and its arguments, all but the number of classes."""

    name: str = "mlp"
    arguments: dict = field(default_factory=dict)  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", portable(self.name))


@dataclass(frozen=True)
class ReadoutChoice:
    """The text encoder that outputs are compared with by cosine, and the temperature; without one the
    outputs are logits."""

    encoder: str | None = None
    temperature: float = 100.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", absolute(self.encoder) if self.encoder else None)


@dataclass(frozen=True)
class TaskRecipe:
    """How many networks each split gets, and which share of all combinations it is dealt.

    `classes` are those that tasks are made of, all by default. `held_out` of them, chosen by the seed, are in
    no task but those of the split `unseen_classes`; classes that a backbone has never seen are in no task
    but those of `unseen_by_backbone`. Where such a split has fewer classes than `sizes`, a task has as many
    as there are. `shuffled`: each task has its own logit order; the data set's order otherwise.
    `networks_per_task` networks in a row have one task and differ by their seeds; counts are of networks.

    With `unions` a class of a task is made of so many classes, from the first number to the second; the share
    `other` of tasks has a class for all classes that the task does not name.
    """

    sizes: tuple[int, ...] = (3, 6)
    seen: int = 600
    validation: int = 80
    unseen: int = 120
    validation_fraction: float = 0.1
    unseen_fraction: float = 0.2
    classes: tuple[str, ...] = ()
    held_out: int = 0
    unseen_classes: int = 0
    unseen_by_backbone: int = 0
    shuffled: bool = True
    networks_per_task: int = 1
    unions: tuple[int, ...] = ()
    other: float = 0.0

    def __post_init__(self) -> None:
        if self.unions and (len(self.unions) != 2 or not 1 <= self.unions[0] <= self.unions[1]):
            raise InputError(
                f"tasks.unions is a smallest and a largest number of classes, from 1 on, found {self.unions}"
            )
        if not 0 <= self.other <= 1:
            raise InputError(f"tasks.other is {self.other}; it is the share of tasks with a class 'other'")
        if self.other and self.held_out:
            raise InputError(
                "tasks.other means all other classes of the data, held-out ones too: set tasks.held_out to 0"
            )
        if self.networks > MOST_NETWORKS:
            raise InputError(
                f"tasks asks for {shown(self.networks)} networks; a zoo has at most {MOST_NETWORKS}, set tasks.seen lower"
            )
        if self.networks_per_task < 1:
            raise InputError(f"tasks.networks_per_task is {self.networks_per_task}; it must be at least 1")

    @property
    def networks(self) -> int:
        trained_for = self.seen + self.validation + self.unseen
        return trained_for + self.unseen_classes + self.unseen_by_backbone


@dataclass(frozen=True)
class ZooRecipe:
    """Everything that decides what a zoo holds. The same recipe builds the same zoo on one machine.

    `lineage`: independent networks have their own initialisations, or share `initialisations` of them
    (0: each its own); branched ones are all fine-tuned from one base, trained by `base` on all classes
    that are not held out.

    `encoder` is the text encoder that generators will read, if that is known: classes that it cannot represent are
    refused before anything is trained, and `train` reads it by default. `descriptions` say in words what names of
    classes mean: class to words, or to a list of words.

    Example:
        >>> from weightflow.zoo.recipe import ArchitectureChoice
        >>> import weightflow
        >>> mlp = ArchitectureChoice("mlp", {"inputs": 4, "hidden": [8]})
        >>> weightflow.ZooRecipe("iris", mlp).tasks.networks
        800
    """

    dataset: str
    architecture: ArchitectureChoice
    readout: ReadoutChoice = ReadoutChoice()
    tasks: TaskRecipe = TaskRecipe()
    training: TrainingRecipe = TrainingRecipe()
    lineage: str = "independent"
    base: TrainingRecipe = TrainingRecipe()
    initialisations: int = 0
    seed: int = 0
    shard_size: int = 250
    encoder: str | None = None
    descriptions: dict = field(default_factory=dict)  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        check_seed(self.seed)
        object.__setattr__(self, "dataset", portable(datasets.absolute(self.dataset)))
        object.__setattr__(self, "encoder", absolute(self.encoder) if self.encoder else None)
        pick({name: name for name in LINEAGES}, self.lineage, "lineage")
        if self.shard_size < 1:
            raise InputError(f"shard_size is {self.shard_size}; it must be at least 1")
        if self.lineage == "branched" and self.initialisations:
            raise InputError(
                "initialisations are for independent networks; branched ones start from the base"
            )

    @property
    def data(self) -> ClassificationData:
        """The data set, read once a process."""
        return datasets.load(self.dataset)

    def make_architecture(self) -> Architecture:
        data, r = self.data, self.readout
        return Architecture(
            self.architecture.name,
            self.architecture.arguments,
            data.input_shape,
            min(max(self.tasks.sizes), len(data.class_names)),
            cosine(r.encoder, r.temperature, self.class_words()) if r.encoder else Logits(),
        )

    def class_words(self) -> dict[str, tuple[str, ...]]:
        """What names of classes mean, checked against the data set."""
        return class_words(self.descriptions, self.data.class_names, self.dataset)

    def check_words(self) -> None:
        """`InputError` where words describe no class, or an encoder (`encoder`, the readout's) cannot represent one."""
        words = self.class_words()
        pool = (*self.known_classes(), *self.held_out_classes(), *self.excluded_classes())
        settings = {self.encoder: "--encoder NAME", self.readout.encoder: "--set readout.encoder=NAME"}
        for name in filter(None, settings):
            encoder = described(load_encoder(name), words)
            unknown = dict[str, str]()
            for own in pool:
                try:
                    encoder.encode([own])
                except InputError as error:
                    unknown[own] = str(error)
            if unknown:
                first, reason = next(iter(unknown.items()))
                raise InputError(
                    f"the text encoder '{name}' has no vector for {len(unknown)} of {len(pool)} classes, the first is "
                    f"'{first}' ({reason}); describe them (--descriptions names.csv), or choose another encoder "
                    f"({settings[name]}, wordllama for instance)"
                )

    def make_tasks(self) -> list[Task]:
        """The task of every network, in the order of the zoo."""
        t = self.tasks
        if len(t.sizes) != 2:
            raise InputError(f"tasks.sizes is a smallest and a largest number of classes, found {t.sizes}")
        sizes = (t.sizes[0], t.sizes[1])
        if t.unions or t.other:
            if self.readout.encoder:
                raise InputError(
                    "tasks.unions and tasks.other are for networks with logits; leave readout out"
                )
            if t.other and self.excluded_classes():
                raise InputError(
                    "tasks.other would name classes that the backbone was trained without; set it to 0"
                )
            unions = (t.unions[0], t.unions[1]) if t.unions else (1, 1)
            names = self.known_classes()
            pools = deal_groupings(
                names,
                sizes,
                unions=unions,
                other=t.other,
                validation_fraction=t.validation_fraction,
                unseen_fraction=t.unseen_fraction,
                seed=self.seed,
            )
        else:
            pools = deal_combinations(
                self.known_classes(),
                sizes,
                validation_fraction=t.validation_fraction,
                unseen_fraction=t.unseen_fraction,
                seed=self.seed,
            )
        others = {
            "unseen_classes": (t.unseen_classes, self.held_out_classes()),
            "unseen_by_backbone": (t.unseen_by_backbone, self.excluded_classes()),
        }
        for split, (count, classes) in others.items():
            if count:
                pools[split] = _every_combination(split, classes, sizes, self.seed)
        counts = {
            "seen": t.seen,
            "validation": t.validation,
            "unseen_combinations": t.unseen,
            **{split: count for split, (count, _) in others.items()},
        }
        _give_each_split_one(pools, counts)
        return [
            task
            for offset, (split, count) in enumerate(counts.items())
            if count
            for task in _repeated(
                draw_tasks(
                    self.dataset,
                    pools[split],
                    -(-count // t.networks_per_task),
                    split,
                    self.seed + 1 + offset,
                    shuffled=t.shuffled,
                ),
                t.networks_per_task,
            )[:count]
        ]

    def known_classes(self) -> tuple[str, ...]:
        """Classes that tasks are made of and that are held out from nothing, in the data's order."""
        held_out = set(self.held_out_classes())
        return tuple(name for name in self._pool(excluded=False) if name not in held_out)

    def held_out_classes(self) -> tuple[str, ...]:
        """Classes that no network but those of `unseen_classes` ever sees, by the seed, in the data's order."""
        names, count = self._pool(excluded=False), self.tasks.held_out
        if not 0 <= count < len(names):
            raise InputError(f"tasks.held_out is {count}; '{self.dataset}' has {len(names)} classes")
        # a stream of its own: the same classes whatever else the recipe says
        chosen = np.random.default_rng([self.seed, 1]).choice(len(names), count, replace=False)
        return tuple(names[i] for i in sorted(chosen))

    def excluded_classes(self) -> tuple[str, ...]:
        """Classes that the backbone of the features has never seen, in the data's order."""
        return self._pool(excluded=True)

    def _pool(self, excluded: bool) -> tuple[str, ...]:
        data = self.data
        data.class_index(self.tasks.classes)
        pool = set(self.tasks.classes or data.class_names)
        return tuple(n for n in data.class_names if n in pool and (n in data.excluded) == excluded)


def _repeated(tasks: Sequence[Task], times: int) -> list[Task]:
    return [task for task in tasks for _ in range(times)]


def _give_each_split_one(pools: dict[str, list[tuple[str, ...]]], counts: Mapping[str, int]) -> None:
    """Of few combinations, a fraction may be none: a split that is to have networks takes one from those seen."""
    for split in ("unseen_combinations", "validation"):
        if counts[split] and not pools[split] and len(pools["seen"]) > 1:
            pools[split].append(pools["seen"].pop())


def _every_combination(
    split: str, classes: Sequence[str], sizes: tuple[int, int], seed: int
) -> list[tuple[str, ...]]:
    if len(classes) < 2:
        raise InputError(
            f"tasks.{split} asks for networks, and there are {len(classes)} such classes; "
            + ("set tasks.held_out to 2 or more" if split == "unseen_classes" else
               "train a backbone that excludes some (weightflow backbone train --exclude), or set it to 0")
        )  # fmt: skip
    fitting = (min(sizes[0], len(classes)), min(sizes[1], len(classes)))
    dealt = deal_combinations(classes, fitting, validation_fraction=0.0, unseen_fraction=0.0, seed=seed)
    return dealt["seen"]


def built_in() -> dict[str, Path]:
    """Recipes that come with the package, by name; `NAME-small` is the same at a size for trying out."""
    return config.by_name(Path(str(resources.files("weightflow.zoo") / "recipes")))


def read_recipe(name_or_path: str, changes: dict[str, Any] | None = None) -> ZooRecipe:
    """A recipe by name or from a TOML file, with `changes` laid over it; on another data set it is fitted.

    A recipe's table `small` holds what the small size changes.
    """
    known = built_in()
    if name_or_path in known:
        path = known[name_or_path]
    elif Path(name_or_path).suffix == ".toml":
        path = Path(name_or_path)
    elif Path(name_or_path).exists():
        raise wrong_kind(name_or_path, "a recipe (a name or a .toml file)")
    else:
        raise InputError(
            f"unknown recipe '{name_or_path}'; nearest: {suggest(name_or_path, known)}; or name a .toml file"
        )
    tables = config.at_size(config.read_toml(path), name_or_path.endswith(config.SMALL))
    return config.build(ZooRecipe, fitted(name_or_path, tables, changes or {}))
