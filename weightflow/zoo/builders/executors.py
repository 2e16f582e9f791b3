"""Who builds the shards: this process, several beside it, or a Ray cluster.

Every local worker is an ordinary builder on the same folder. Locks on shards keep them apart, so that a worker
which is killed costs the shard it was at: the others, or this process at the end, train that one again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import torch

from canon.errors import InputError, WorkError
from weightflow.device import usable_device
from weightflow.registry import pick
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.builders.ray_executor import on_ray
from weightflow.zoo.recipe import ZooRecipe
from weightflow.zoo.store import shard_path

Progress = Callable[[int], None]


def local(recipe: ZooRecipe, folder: Path, progress: Progress, workers: int, device: str) -> int:
    """Build with `workers` processes on this machine; with one, in this process."""
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    usable_device(device)
    if workers == 1:
        return build_zoo(recipe, folder, progress, device)
    before = _finished(recipe, folder)
    # spawn: a forked copy of a process that has used torch's threads may hang
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    crew = [
        context.Process(target=_work, args=(recipe, folder, threads, device), daemon=True)
        for _ in range(workers)
    ]
    for worker in crew:
        worker.start()
    shown = 0
    while any(worker.is_alive() for worker in crew):
        for worker in crew:
            worker.join(0.2)
        found = _finished(recipe, folder)
        progress(found - shown)
        shown = found
    # what is missing is trained here, errors are raised here, and the manifest is written
    missing = build_zoo(recipe, folder, device=device)
    progress(recipe.tasks.networks - shown)
    return max(missing, recipe.tasks.networks - before)


def _work(recipe: ZooRecipe, folder: Path, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        build_zoo(recipe, folder, device=device)
    except (InputError, WorkError, KeyboardInterrupt):
        sys.exit(1)  # the process that started this one meets the same error, and says it once


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _finished(recipe: ZooRecipe, folder: Path) -> int:
    total, size = recipe.tasks.networks, recipe.shard_size
    starts = range(0, total, size)
    return sum(
        min(size, total - start) for index, start in enumerate(starts) if shard_path(folder, index).exists()
    )


EXECUTORS: dict[str, Callable[[ZooRecipe, Path, Progress, int, str], int]] = {"local": local, "ray": on_ray}


def build_with(
    executor: str, recipe: ZooRecipe, folder: Path, progress: Progress, workers: int, device: str = "cpu"
) -> int:
    """Build or complete a zoo with an executor by name; how many networks were trained now."""
    return pick(EXECUTORS, executor, "executor")(recipe, folder, progress, workers, device)
