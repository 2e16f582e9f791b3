"""A zoo remembers the data that its networks were trained on, from wherever it is opened."""

import json

import numpy as np
import pytest

import weightflow
from canon.cli import console
from weightflow import datasets
from weightflow.cli.main import app

RECIPE = {
    "tasks.sizes": [2, 2],
    "tasks.seen": 4,
    "tasks.validation": 0,
    "tasks.unseen": 0,
    "tasks.validation_fraction": 0.0,
    "tasks.unseen_fraction": 0.0,
    "training.steps": 5,
    "dataset": "npz:a.npz",
    "architecture.arguments": {"inputs": 4, "hidden": [3]},
}


def write(examples: int) -> None:
    inputs = np.random.default_rng(0).normal(size=(examples, 4))
    np.savez("a.npz", inputs=inputs, labels=np.arange(examples) % 2, class_names=["left", "right"])
    datasets.load.cache_clear()


@pytest.fixture
def built(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(80)
    yield weightflow.build_zoo("iris", "zoo", settings=RECIPE)
    datasets.load.cache_clear()


def test_a_zoo_finds_its_data_from_any_folder(built, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    datasets.load.cache_clear()
    assert weightflow.evaluate(tmp_path / "zoo")["judged"] == 4


def test_changed_data_are_named_and_not_mixed(built, capsys):
    weightflow.evaluate(built)
    write(81)
    with pytest.warns(weightflow.InputWarning, match=r"have changed \(80 examples then, 81 now\) since"):
        weightflow.evaluate(built)
    with pytest.raises(weightflow.InputError, match="since zoo was begun; restore them"):
        weightflow.build_zoo("iris", "zoo", settings=RECIPE)
    assert console.run_cli(app, ["evaluate", "zoo", "-q"], name="weightflow") == 0
    assert capsys.readouterr().err.count("warning: the data of") == 1


def test_inspect_says_how_inputs_are_prepared(built, capsys):
    assert console.run_cli(app, ["zoo", "inspect", "zoo"], name="weightflow") == 0
    assert "each of 4 features by its own mean and deviation" in capsys.readouterr().out
    (built.path.parent / "a.npz").unlink()
    datasets.load.cache_clear()
    assert console.run_cli(app, ["zoo", "inspect", "zoo", "--json"], name="weightflow") == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert found["examples"] == 80
    assert "a.npz does not exist" in found["remarks"][0]
