"""What a zoo is built from: data set, architecture, tasks, training. Recipes are TOML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from canon.errors import InputError
from weightflow import config, datasets
from weightflow.architectures import Architecture
from weightflow.names import suggest
from weightflow.zoo.tasks import Task, deal_combinations, draw_tasks
from weightflow.zoo.training import TrainingRecipe


@dataclass(frozen=True)
class ArchitectureChoice:
    """An architecture's name and its arguments, all but the number of classes."""

    name: str = "mlp"
    arguments: dict = field(default_factory=dict)  # type: ignore[type-arg]


@dataclass(frozen=True)
class TaskRecipe:
    """How many networks each split gets, and which share of all combinations it is dealt."""

    sizes: tuple[int, ...] = (3, 6)
    seen: int = 600
    validation: int = 80
    unseen: int = 120
    validation_fraction: float = 0.1
    unseen_fraction: float = 0.2


@dataclass(frozen=True)
class ZooRecipe:
    """Everything that decides what a zoo holds. The same recipe builds the same zoo on one machine."""

    dataset: str
    architecture: ArchitectureChoice
    tasks: TaskRecipe = TaskRecipe()
    training: TrainingRecipe = TrainingRecipe()
    lineage: str = "independent"
    seed: int = 0
    shard_size: int = 250

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
        pools = deal_combinations(
            data.class_names,
            (t.sizes[0], t.sizes[1]),
            validation_fraction=t.validation_fraction,
            unseen_fraction=t.unseen_fraction,
            seed=self.seed,
        )
        counts = {"seen": t.seen, "validation": t.validation, "unseen_combinations": t.unseen}
        return [
            task
            for offset, (split, count) in enumerate(counts.items())
            if count
            for task in draw_tasks(self.dataset, pools[split], count, split, self.seed + 1 + offset)
        ]


def built_in() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(resources.files("weightflow") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name_or_path: str, changes: dict[str, Any] | None = None) -> ZooRecipe:
    """A recipe by name or from a TOML file, with `changes` laid over it."""
    known = built_in()
    if name_or_path in known:
        path = known[name_or_path]
    elif Path(name_or_path).suffix == ".toml":
        path = Path(name_or_path)
    else:
        raise InputError(
            f"no recipe is called '{name_or_path}'; nearest: {suggest(name_or_path, known)}; or name a .toml file"
        )
    return config.build(ZooRecipe, config.replace_nested(config.read_toml(path), changes or {}))
