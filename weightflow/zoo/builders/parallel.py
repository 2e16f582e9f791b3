"""Build a zoo with an executor: shards are trained by its workers, and written here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.device import usable_device
from weightflow.executors import Executor, InProcess, make_executor
from weightflow.zoo.builders.construction import Shard, ZooConstruction, train_shard
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import ZooRecipe

Progress = Callable[[int], None]


def build_with(
    executor: str, recipe: ZooRecipe, folder: Path, progress: Progress, workers: int, device: str = "cpu"
) -> int:
    """Build or complete a zoo with an executor by name; how many networks were trained now."""
    chosen = make_executor(executor, workers, str(usable_device(device)))
    if isinstance(chosen, InProcess):
        return build_zoo(recipe, folder, progress, device)
    return _build_on(chosen, recipe, folder, progress)


def _build_on(executor: Executor, recipe: ZooRecipe, folder: Path, progress: Progress) -> int:
    site, trained, told, taken = ZooConstruction(recipe, folder), 0, 0, deque[int]()
    with ExitStack() as locks:

        def missing() -> Iterator[tuple[int, list[Task]]]:
            nonlocal told
            for index, start in enumerate(site.starts):
                if not locks.enter_context(site.lock(index, wait=False)):
                    continue  # another builder computes it
                if site.is_sound(index):
                    told += len(site.part(index))
                    progress(len(site.part(index)))
                    continue
                taken.append(index)
                yield start, site.part(index)

        train = partial(_trained, recipe, site.base, executor.device)
        with closing(executor.map(train, missing())) as shards:
            for shard in shards:
                site.hand_in(taken.popleft(), shard)
                trained += len(shard.records)
                progress(len(shard.records))
    site.finish(trained)
    missed = build_zoo(recipe, folder, device=executor.device)  # shards of other builders that died
    progress(len(site.tasks) - told - trained)
    return trained + missed


def _trained(recipe: ZooRecipe, base: StateDict | None, device: str, shard: tuple[int, list[Task]]) -> Shard:
    start, tasks = shard
    return train_shard(recipe, start, tasks, base, device)
