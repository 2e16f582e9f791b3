"""Build a zoo from a recipe, shard by shard. What is there and sound is kept; the rest is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from canon.errors import InputError
from canon.files import atomic_write, sha256
from weightflow import config, datasets
from weightflow.architectures import Architecture
from weightflow.zoo.base import BASE, BASE_FILE, branches, trained_base
from weightflow.zoo.initialise import initialise
from weightflow.zoo.lock import holding
from weightflow.zoo.logits import State
from weightflow.zoo.measure import measured
from weightflow.zoo.recipe import ZooRecipe
from weightflow.zoo.store import Record, read_manifest, shard_path, write_manifest, write_shard
from weightflow.zoo.tasks import Task
from weightflow.zoo.training import train_many

# one stream of seeds a zoo: so far apart that neighbouring zoos never share a network
SEEDS = 2**20


def build_zoo(
    recipe: ZooRecipe,
    folder: Path,
    progress: Callable[[int], None] = lambda networks: None,
) -> int:
    """Build or complete the zoo in `folder`; returns how many networks were trained now.

    Several builders may work on one folder: each shard is locked by the one that trains it.

    Raises `InputError` where the folder holds a zoo of another recipe.
    """
    tasks, architecture = recipe.make_tasks(), recipe.make_architecture()
    starts = list(range(0, len(tasks), recipe.shard_size))
    _claim(folder, recipe)
    base = None
    if recipe.lineage == "branched":
        with holding(_lock(folder, BASE), wait=True):
            base = trained_base(folder, recipe)
    trained, elsewhere = 0, []

    def complete(index: int) -> int:
        part = tasks[starts[index] : starts[index] + recipe.shard_size]
        if _is_sound(folder, index):
            progress(len(part))
            return 0
        _build_shard(folder, index, starts[index], part, recipe, architecture, base, progress)
        return len(part)

    for index in range(len(starts)):
        with holding(_lock(folder, f"shard{index:05d}"), wait=False) as mine:
            if mine:
                trained += complete(index)
            else:
                elsewhere.append(index)
    for index in elsewhere:  # whoever had it has finished it by now, or has died
        with holding(_lock(folder, f"shard{index:05d}"), wait=True):
            trained += complete(index)
    with holding(_lock(folder, "manifest"), wait=True):
        if trained or not (folder / "zoo.json").exists():
            write_manifest(folder, _header(folder, recipe, architecture), len(starts))
    return trained


def _lock(folder: Path, name: str) -> Path:
    return folder / ".locks" / name


def _build_shard(
    folder: Path,
    index: int,
    start: int,
    tasks: list[Task],
    recipe: ZooRecipe,
    architecture: Architecture,
    base: State | None,
    progress: Callable[[int], None],
) -> None:
    data = datasets.load(recipe.dataset)
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

    trained = train_many(architecture, data, tasks, seeds, recipe.training, on_step, begin)
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
    write_shard(folder, index, trained.state, records)


def _claim(folder: Path, recipe: ZooRecipe) -> None:
    """Note the recipe in the folder before anything is trained; refuse a folder of another recipe."""
    path, text = folder / "recipe.json", json.dumps(config.to_dict(recipe), indent=1, sort_keys=True)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{folder} holds a zoo of another recipe; choose another folder, or delete this one"
            )
        return
    if folder.exists() and (not folder.is_dir() or _visible(folder)):
        raise InputError(f"{folder} is not an empty folder and holds no zoo; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)


def _visible(folder: Path) -> bool:
    """Whether anything lies in the folder but what another builder is about to write."""
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _is_sound(folder: Path, index: int) -> bool:
    path = shard_path(folder, index)
    if not path.exists():
        return False
    if not (folder / "zoo.json").exists():
        return True  # shards are written whole or not at all; the manifest comes last
    return sha256(path) == read_manifest(folder)["shards"][index]["sha256"]


def _header(folder: Path, recipe: ZooRecipe, architecture: Architecture) -> dict[str, object]:
    header: dict[str, object] = {
        "architecture": architecture.to_dict(),
        "dataset": recipe.dataset,
        "lineage": recipe.lineage,
        "recipe": config.to_dict(recipe),
    }
    if recipe.tasks.held_out:
        header["held_out_classes"] = list(recipe.held_out_classes())
    if recipe.excluded_classes():
        header["unseen_by_backbone"] = list(recipe.excluded_classes())
    if recipe.lineage == "branched":
        header["base"] = {"id": BASE, "file": BASE_FILE, "sha256": sha256(folder / BASE_FILE)}
    return header
