"""What a zoo is built from: data set, architecture, tasks, training. Recipes are TOML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from canon.errors import InputError
from weightflow import config, datasets
from weightflow.architectures import Architecture
from weightflow.names import pick, suggest
from weightflow.zoo.tasks import Task, deal_combinations, draw_tasks
from weightflow.zoo.trainingrecipe import TrainingRecipe

LINEAGES = ("independent", "branched")


@dataclass(frozen=True)
class ArchitectureChoice:
    """An architecture's name and its arguments, all but the number of classes."""

    name: str = "mlp"
    arguments: dict = field(default_factory=dict)  # type: ignore[type-arg]


@dataclass(frozen=True)
class TaskRecipe:
    """How many networks each split gets, and which share of all combinations it is dealt.

    `held_out` classes, chosen by the seed, are in no task but those of the split `unseen_classes`.
    `shuffled`: each task has its own logit order; the data set's order otherwise.
    """

    sizes: tuple[int, ...] = (3, 6)
    seen: int = 600
    validation: int = 80
    unseen: int = 120
    validation_fraction: float = 0.1
    unseen_fraction: float = 0.2
    held_out: int = 0
    unseen_classes: int = 0
    shuffled: bool = True

    @property
    def networks(self) -> int:
        return self.seen + self.validation + self.unseen + self.unseen_classes


@dataclass(frozen=True)
class ZooRecipe:
    """Everything that decides what a zoo holds. The same recipe builds the same zoo on one machine.

    `lineage`: independent networks have their own initialisations, or share `initialisations` of them
    (0: each its own); branched ones are all fine-tuned from one base, trained by `base` on all classes
    that are not held out.
    """

    dataset: str
    architecture: ArchitectureChoice
    tasks: TaskRecipe = TaskRecipe()
    training: TrainingRecipe = TrainingRecipe()
    lineage: str = "independent"
    base: TrainingRecipe = TrainingRecipe()
    initialisations: int = 0
    seed: int = 0
    shard_size: int = 250

    def __post_init__(self) -> None:
        pick({name: name for name in LINEAGES}, self.lineage, "lineage")
        if self.shard_size < 1:
            raise InputError(f"shard_size is {self.shard_size}; it must be at least 1")
        if self.lineage == "branched" and self.initialisations:
            raise InputError(
                "initialisations are for independent networks; branched ones start from the base"
            )

    def make_architecture(self) -> Architecture:
        data = datasets.load(self.dataset)
        return Architecture(
            self.architecture.name,
            self.architecture.arguments,
            data.input_shape,
            min(max(self.tasks.sizes), len(data.class_names)),
        )

    def make_tasks(self) -> list[Task]:
        """The task of every network, in the order of the zoo."""
        t, data = self.tasks, datasets.load(self.dataset)
        if len(t.sizes) != 2:
            raise InputError(f"tasks.sizes is a smallest and a largest number of classes, found {t.sizes}")
        held_out = self.held_out_classes()
        known = [name for name in data.class_names if name not in held_out]
        sizes = (t.sizes[0], t.sizes[1])
        pools = deal_combinations(
            known,
            sizes,
            validation_fraction=t.validation_fraction,
            unseen_fraction=t.unseen_fraction,
            seed=self.seed,
        )
        if t.unseen_classes:
            every = deal_combinations(
                held_out, sizes, validation_fraction=0.0, unseen_fraction=0.0, seed=self.seed
            )
            pools["unseen_classes"] = every["seen"]
        counts = {
            "seen": t.seen,
            "validation": t.validation,
            "unseen_combinations": t.unseen,
            "unseen_classes": t.unseen_classes,
        }
        return [
            task
            for offset, (split, count) in enumerate(counts.items())
            if count
            for task in draw_tasks(
                self.dataset, pools[split], count, split, self.seed + 1 + offset, shuffled=t.shuffled
            )
        ]

    def held_out_classes(self) -> tuple[str, ...]:
        """Classes that no network but those of `unseen_classes` ever sees, by the seed, in the data's order."""
        names, count = datasets.load(self.dataset).class_names, self.tasks.held_out
        if not 0 <= count < len(names):
            raise InputError(f"tasks.held_out is {count}; '{self.dataset}' has {len(names)} classes")
        # a stream of its own: the same classes whatever else the recipe says
        chosen = np.random.default_rng([self.seed, 1]).choice(len(names), count, replace=False)
        return tuple(names[i] for i in sorted(chosen))


SMALL = "-small"


def built_in() -> dict[str, Path]:
    """Recipes that come with the package, by name; `NAME-small` is the same at a size for trying out."""
    folder = Path(str(resources.files("weightflow") / "recipes"))
    paths = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return paths | {name + SMALL: path for name, path in paths.items() if "small" in config.read_toml(path)}


def read_recipe(name_or_path: str, changes: dict[str, Any] | None = None) -> ZooRecipe:
    """A recipe by name or from a TOML file, with `changes` laid over it.

    A recipe's table `small` holds what the small size changes.
    """
    known = built_in()
    if name_or_path in known:
        path = known[name_or_path]
    elif Path(name_or_path).suffix == ".toml":
        path = Path(name_or_path)
    else:
        raise InputError(
            f"no recipe is called '{name_or_path}'; nearest: {suggest(name_or_path, known)}; or name a .toml file"
        )
    tables = config.read_toml(path)
    small = tables.pop("small", {})
    if name_or_path.endswith(SMALL):
        tables = config.replace_nested(tables, small)
    return config.build(ZooRecipe, config.replace_nested(tables, changes or {}))
