"""Build a zoo on Ray (https://ray.io): on the cluster in RAY_ADDRESS, or on one started here.

Workers train shards and send them back; this process alone writes to the folder. Ray gives the shard of
a worker that is killed to another one. weightflow and the data set must be there on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from canon.errors import InputError, WorkError
from weightflow.zoo.builders.construction import Shard, Site, train_shard
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import ZooRecipe

# a shard whose workers die so often is to blame itself, for instance for its memory
RETRIES = 5


def on_ray(
    recipe: ZooRecipe, folder: Path, progress: Callable[[int], None], workers: int, device: str
) -> int:
    """Build or complete the zoo in `folder`, `workers` shards at a time; how many networks were trained now.

    On an accelerator, each shard has one to itself.
    """
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    try:
        import ray
    except ImportError:
        raise InputError("the executor 'ray' needs Ray; install it: pip install 'weightflow[ray]'") from None
    site, trained, told = Site(recipe, folder), 0, 0
    base = site.base
    with _session(ray, workers), ExitStack() as locks:
        train: Any = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=int(device != "cpu"))(train_shard)
        start = ray.put(base)
        running: dict[Any, int] = {}
        for index in range(len(site.starts)):
            if not locks.enter_context(site.lock(index, wait=False)):
                continue  # another builder is at it
            if site.is_sound(index):
                told += len(site.part(index))
                progress(len(site.part(index)))
                continue
            while len(running) >= workers:
                trained += _receive(ray, site, running, progress)
            waiting = train.remote(recipe, site.starts[index], site.part(index), start, device)
            running[waiting] = index
        while running:
            trained += _receive(ray, site, running, progress)
    site.finish(trained)
    missing = build_zoo(recipe, folder, device=device)  # what other builders were at, had they died
    progress(len(site.tasks) - told - trained)
    return trained + missing


@contextmanager
def _session(ray: Any, workers: int) -> Iterator[None]:
    """A connection to the cluster that there is, or a cluster of `workers` processes for now."""
    if ray.is_initialized():
        yield
        return
    own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="error", **own)
    try:
        yield
    finally:
        ray.shutdown()


def _receive(ray: Any, site: Site, running: dict[Any, int], progress: Callable[[int], None]) -> int:
    """Wait for one shard and write it; how many networks it has."""
    done = ray.wait(list(running))[0][0]
    index = running.pop(done)
    try:
        shard: Shard = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, (InputError, WorkError)) else error from None
    except ray.exceptions.RayError as error:
        raise WorkError(
            f"shard {index} was lost {RETRIES + 1} times: {error}; make shards smaller"
        ) from error
    site.hand_in(index, shard)
    progress(len(shard.records))
    return len(shard.records)
