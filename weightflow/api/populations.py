"""Zoos from Python: build, canonicalize."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.types import PathLike, no_callback
from weightflow import config
from weightflow.device import computing_on, usable_device
from weightflow.executors import make_executor
from weightflow.zoo.builders.parallel import build_with
from weightflow.zoo.canonicalize import canonicalize_zoo, is_canonical_form_of
from weightflow.zoo.recipe import ZooRecipe, read_recipe
from weightflow.zoo.store import Zoo


def build_zoo(
    recipe: str | os.PathLike[str] | ZooRecipe,
    out: PathLike,
    *,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    executor: str = "local",
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Zoo:
    """Train a population of networks, or complete one: sound shards are kept, missing ones are trained.

    Args:
        recipe: A recipe's name (`weightflow list recipes`), a TOML file, or a `ZooRecipe`.
        out: Folder of the zoo.
        seed: Seed of everything random; the recipe's own by default.
        settings: Settings to change, such as `{"tasks.seen": 100, "training.steps": 300}`.
        executor: "local" or "ray".
        workers: Shards that are trained side by side.
        device: Where networks are trained.
        progress: Called with the number of networks that were finished since its last call.

    Returns:
        The zoo, opened.

    Raises:
        InputError: The recipe or a setting does not exist, or the folder holds something else.

    Example:
        >>> import weightflow
        >>> few = {"tasks.seen": 4, "tasks.validation": 2, "tasks.unseen": 2, "training.steps": 5}
        >>> weightflow.build_zoo("digits", "zoos/few", settings=few)
        Zoo('zoos/few', 8 networks, mlp, ... parameters, digits)
    """
    changes = config.replace_nested(config.nested(settings or {}), {"seed": seed})
    if isinstance(recipe, ZooRecipe):
        plan = config.build(ZooRecipe, config.replace_nested(config.to_dict(recipe), changes))
    else:
        plan = read_recipe(os.fspath(recipe), changes)
    build_with(executor, plan, Path(out), progress or no_callback, workers, device)
    return Zoo(out)


def canonicalize(
    zoo: Zoo | PathLike,
    out: PathLike,
    *,
    executor: str = "local",
    workers: int = 1,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Zoo:
    """Bring all networks of a zoo into one frame: balance scales, then match hidden units to the mean.

    The function of each network is unchanged. The mean network (the frame) is stored with the zoo.

    Args:
        zoo: The zoo, or its folder.
        out: Folder of the canonical zoo. Where it holds the canonical form of this zoo already, nothing is done.
        executor: "local" or "ray".
        workers: Shards that are aligned side by side.
        device: Where products of weights are taken: `cpu` (the default), `cuda`, `cuda:1`, or `auto`. Assignments are solved
            on the processor, and all of it is where a device has no float64 (`mps`).
        progress: Called with the number of networks that were aligned since its last call.

    Returns:
        The canonical zoo, opened.

    Raises:
        InputError: `out` is the zoo itself, or holds something else.

    Example:
        >>> import weightflow
        >>> weightflow.canonicalize("zoos/digits", "zoos/canonical")
        Zoo('zoos/canonical', ... networks, mlp, ... parameters, digits)

    The frame is the mean that weight matching to the running mean ends in (Git Re-Basin's MergeMany, Ainsworth et
    al. 2023, arXiv 2209.04836).
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo(zoo)
    if not is_canonical_form_of(Path(out), opened):
        with computing_on(usable_device(device)):
            crew = make_executor(executor, workers, str(usable_device()))
            canonicalize_zoo(opened, Path(out), progress or no_callback, crew)
    return Zoo(out)


def opened(zoo: Zoo | PathLike) -> Zoo:
    """A zoo as it is, or from its folder."""
    if isinstance(zoo, Zoo):
        return zoo
    if isinstance(zoo, (str, os.PathLike)):
        return Zoo(zoo)
    raise InputError(f"a {type(zoo).__name__} is not a zoo; give a weightflow.Zoo or its folder")
