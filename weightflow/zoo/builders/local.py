"""Build a zoo from a recipe, shard by shard; valid shards are kept, the rest is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from weightflow.zoo.builders.construction import ZooConstruction, train_shard
from weightflow.zoo.recipe import ZooRecipe


def build_zoo(
    recipe: ZooRecipe,
    folder: Path,
    progress: Callable[[int], None] = lambda networks: None,
    device: str = "cpu",
) -> int:
    """Build or complete the zoo in `folder`; returns how many networks were trained now.

    Several builders may work on one folder: each shard is locked by the one that trains it.

    Raises `InputError` where the folder holds a zoo of another recipe.
    """
    site = ZooConstruction(recipe, folder)
    trained, elsewhere = 0, []

    def complete(index: int) -> int:
        part = site.part(index)
        if site.is_sound(index):
            progress(len(part))
            return 0
        site.hand_in(index, train_shard(recipe, site.starts[index], part, site.base, device, progress))
        return len(part)

    for index in range(len(site.starts)):
        with site.lock(index, wait=False) as mine:
            if mine:
                trained += complete(index)
            else:
                elsewhere.append(index)
    for index in elsewhere:  # its builder has finished it by now, or has died
        with site.lock(index, wait=True):
            trained += complete(index)
    site.finish(trained)
    return trained
