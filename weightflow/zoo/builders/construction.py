"""A zoo under construction: builders lock a shard, train it and write it.

Shards are written whole or not at all and locked by whoever trains them, so that several builders may
work in one folder, and that one which is killed costs the shard it was at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from canon.errors import InputError
from canon.io.files import atomic_write, read_bounded, reading, sha256
from canon.io.folders import require_apart, require_place, require_space
from canon.types import StateDict
from canon.validation import parse_json
from weightflow import config, datasets
from weightflow.batched.accuracy import measured
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.batched.training import check_inputs, train_many
from weightflow.data.info import DataInfo
from weightflow.zoo.builders.base_network import BASE, branches, trained_base
from weightflow.zoo.builders.file_lock import holding
from weightflow.zoo.data_changes import change_of
from weightflow.zoo.recipe import ZooRecipe
from weightflow.zoo.store import (
    BASE_FILE,
    RECIPE,
    Record,
    read_manifest,
    read_shard_records,
    shard_path,
    write_manifest,
    write_shard,
)

# one stream of seeds a zoo: so far apart that neighbouring zoos never share a network
SEEDS = 2**20
DATA = "data.json"
"""What the data were when the zoo was begun."""


@dataclass(frozen=True)
class Shard:
    """Trained networks, stacked, and what is recorded of each."""

    state: StateDict
    records: list[Record]


class ZooConstruction:
    """The folder of a zoo and the recipe that it is built from.

    Raises `InputError` where the folder holds a zoo of another recipe, or something else.
    """

    def __init__(self, recipe: ZooRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.tasks, self.architecture = recipe.make_tasks(), recipe.make_architecture()
        self.starts = list(range(0, len(self.tasks), recipe.shard_size))
        self.data = recipe.data
        check_inputs(self.architecture, self.data)
        recipe.check_words()
        self._claim()

    def lock(self, name: str | int, wait: bool) -> AbstractContextManager[bool]:
        """Hold a shard by its number, or another part by its name; see `holding`."""
        name = f"shard{name:05d}" if isinstance(name, int) else name
        return holding(self.folder / ".locks" / name, wait)

    def part(self, index: int) -> list[Task]:
        """The tasks of a shard."""
        start = self.starts[index]
        return self.tasks[start : start + self.recipe.shard_size]

    @cached_property
    def base(self) -> StateDict | None:
        """The network that branched ones start from; trained by the first who asks for it."""
        if self.recipe.lineage != "branched":
            return None
        with self.lock(BASE, wait=True):
            return trained_base(self.folder, self.recipe)

    def is_sound(self, index: int) -> bool:
        path = shard_path(self.folder, index)
        if not path.exists():
            return False
        hashes = self._hashes()
        if hashes is None:
            try:
                read_shard_records(path)
            except InputError:
                return False
            return True
        return sha256(path) == hashes[index]

    def _hashes(self) -> list[str] | None:
        """The SHA-256 of every shard by the manifest, which comes last; None where it is damaged too."""
        try:
            shards = read_manifest(self.folder)["shards"]
        except InputError:
            return None
        return [shard["sha256"] for shard in shards] if len(shards) == len(self.starts) else None

    def hand_in(self, index: int, shard: Shard) -> None:
        write_shard(self.folder, index, shard.state, shard.records)

    def finish(self, trained: int) -> None:
        """Write the manifest, where anything is new; a base that is lost or damaged is trained again."""
        _ = self.base
        with self.lock("manifest", wait=True):
            if trained or self._hashes() is None:
                write_manifest(self.folder, self._header(), len(self.starts))

    def _claim(self) -> None:
        """Note the recipe in the folder before anything is trained; refuse a folder of another recipe."""
        folder, path = self.folder, self.folder / RECIPE
        require_place(folder)
        require_apart(folder, *datasets.folders_of(self.recipe.dataset))
        require_space(folder, len(self.tasks), 4 * self.architecture.parameters)
        if path.exists():
            if not _is_of(path, self.recipe):
                raise InputError(
                    f"{folder} holds a zoo of another recipe; choose another folder, or delete this one"
                )
            self._require_same_data()
            return
        # a name with a dot is a file that another builder is writing; a killed one leaves the note of the data behind
        if folder.exists() and (
            not folder.is_dir()
            or any(not p.name.startswith(".") and not _is_note(p) for p in folder.iterdir())
        ):
            raise InputError(f"{folder} is not an empty folder and holds no zoo; choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / DATA, json.dumps(DataInfo.of(self.data).to_dict(), indent=1))
        atomic_write(path, json.dumps(config.to_dict(self.recipe), indent=1, sort_keys=True))

    def _require_same_data(self) -> None:
        """Refuse to train the missing networks on other data than those that are there."""
        path = self.folder / DATA
        if not path.exists():  # begun by an earlier version
            return
        with reading(path, "build the zoo in a new folder"):
            begun = DataInfo.from_dict(parse_json(read_bounded(path, config.LIMIT)))
        if change := change_of(begun, self.data):
            raise InputError(
                f"{change} since {self.folder} was begun; restore them, or build in a new folder"
            )

    def _header(self) -> dict[str, object]:
        recipe = self.recipe
        header: dict[str, object] = {
            "architecture": self.architecture.to_dict(),
            "dataset": recipe.dataset,
            "data": replace(
                DataInfo.of_tasks(self.data, [task.classes for task in self.tasks]),
                words=recipe.class_words(),
            ).to_dict(),
            "lineage": recipe.lineage,
            "recipe": config.to_dict(recipe),
        }
        if recipe.tasks.held_out:
            header["held_out_classes"] = list(recipe.held_out_classes())
        if recipe.excluded_classes():
            header["unseen_by_backbone"] = list(recipe.excluded_classes())
        if recipe.lineage == "branched":
            header["base"] = {"id": BASE, "file": BASE_FILE, "sha256": sha256(self.folder / BASE_FILE)}
        return header


def _is_note(path: Path) -> bool:
    """Whether a file is the note of the data, which a builder writes before the recipe."""
    if path.name != DATA:
        return False
    try:
        with reading(path, "build the zoo in a new folder"):
            DataInfo.from_dict(parse_json(read_bounded(path, config.LIMIT)))
    except InputError:
        return False
    return True


def _is_of(path: Path, recipe: ZooRecipe) -> bool:
    """Whether the recipe in a file is this one; settings that it does not know have their defaults."""
    try:
        said = parse_json(read_bounded(path, config.LIMIT))
        return config.to_dict(config.build(ZooRecipe, said)) == config.to_dict(recipe)
    except (InputError, ValueError):  # a later version's, or damaged
        return False


def train_shard(
    recipe: ZooRecipe,
    start: int,
    tasks: list[Task],
    base: StateDict | None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda networks: None,
) -> Shard:
    """Train the networks from number `start` on, one for each task. Touches no folder."""
    data, architecture = recipe.data, recipe.make_architecture()
    seeds = [recipe.seed * SEEDS + start + row for row in range(len(tasks))]
    begin = None
    if base is not None:
        begin = branches(architecture, base, tasks)
    elif recipe.initialisations:
        shared = [recipe.seed * SEEDS + (start + row) % recipe.initialisations for row in range(len(tasks))]
        begin = initialise(architecture, shared, recipe.training.initialiser)
    done = 0

    def on_step(steps: int) -> None:
        nonlocal done
        before, done = done // recipe.training.steps, done + steps
        progress(done // recipe.training.steps - before)

    trained = train_many(architecture, data, tasks, seeds, recipe.training, on_step, begin, device)
    accuracy = measured(architecture, trained.state, data, tasks)
    records = [
        Record(
            id=f"n{start + row:06d}",
            seed=seeds[row],
            dataset=recipe.dataset,
            split=task.split,
            classes=task.classes,
            lineage=recipe.lineage,
            parent=BASE if base is not None else None,
            accuracy=accuracy[row],
            steps=trained.steps[row],
        )
        for row, task in enumerate(tasks)
    ]
    return Shard(trained.state, records)
