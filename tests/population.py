"""A small real population, built once: digits, twelve hidden units, a generator of a few steps."""

import dataclasses
from pathlib import Path

import pytest

from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.models import ModelConfig
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo, write_zoo

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


@pytest.fixture(scope="session")
def context(run) -> EvaluationContext:
    """The finished run beside its zoo."""
    return open_context(run)


@pytest.fixture(scope="session")
def one_task_run(tiny_config, tmp_path_factory) -> Path:
    """A run on networks of one task, the last four of them held out: what an unconditional generator sees."""
    folder: Path = tmp_path_factory.mktemp("one-task")
    tasks = {"sizes": [10, 10], "seen": 12, "validation": 0, "unseen": 0, "shuffled": False}
    build_zoo(read_recipe("digits", {**TINY_ZOO, "tasks": tasks}), folder / "zoo")
    whole = Zoo(folder / "zoo")
    records = [dataclasses.replace(r, split="validation" if r.row >= 8 else "seen") for r in whole.records]
    header = {key: whole.manifest[key] for key in ("architecture", "dataset", "lineage", "recipe")}
    write_zoo(folder / "held-out", header, whole.load(), records)
    canonicalize_zoo(Zoo(folder / "held-out"), folder / "canonical")
    start(Zoo(folder / "canonical"), tiny_config, folder / "run").run()
    return folder / "run"


@pytest.fixture
def other_model(tiny_config):
    return dataclasses.replace(tiny_config, model=ModelConfig(width=8, depth=1, heads=1))
