"""A small real population, built once: digits, twelve hidden units, a generator of a few steps."""

import dataclasses
from pathlib import Path

import pytest

from weightflow.canonicalize import canonicalize_zoo
from weightflow.model import ModelConfig
from weightflow.presets import read_preset
from weightflow.train import start
from weightflow.zoo.build import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

TINY_ZOO = {
    "architecture": {"arguments": {"inputs": 64, "hidden": [12]}},
    "tasks": {"sizes": [2, 4], "seen": 40, "validation": 6, "unseen": 8},
    "training": {"steps": 60, "batch_size": 16},
    "shard_size": 20,
}
TINY_RUN = {
    "steps": 12,
    "batch_size": 8,
    "evaluate_every": 4,
    "save_every": 3,
    "model": {"width": 16, "depth": 2, "heads": 2},
    "behaviour": {"images": 8},
}


@pytest.fixture(scope="session")
def tiny_recipe():
    return read_recipe("digits", TINY_ZOO)


@pytest.fixture(scope="session")
def tiny_config():
    return read_preset("weightflow", TINY_RUN)


@pytest.fixture(scope="session")
def raw_zoo(tiny_recipe, tmp_path_factory) -> Zoo:
    folder: Path = tmp_path_factory.mktemp("population") / "zoo"
    build_zoo(tiny_recipe, folder)
    return Zoo(folder)


@pytest.fixture(scope="session")
def zoo(raw_zoo) -> Zoo:
    """The canonical zoo."""
    folder = raw_zoo.path.with_name("canonical")
    canonicalize_zoo(raw_zoo, folder)
    return Zoo(folder)


@pytest.fixture(scope="session")
def run(zoo, tiny_config) -> Path:
    """A run that is finished. Its generator is far too small to be good."""
    folder = zoo.path.with_name("run")
    start(zoo, tiny_config, folder).run()
    return folder


@pytest.fixture
def other_model(tiny_config):
    return dataclasses.replace(tiny_config, model=ModelConfig(width=8, depth=1, heads=1))
