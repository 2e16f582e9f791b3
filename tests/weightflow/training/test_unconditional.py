"""A zoo of one task: the whole pipeline without a word, from the published preset."""

import json

import pytest
import torch
from typer.testing import CliRunner

from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.cli.main import app
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

SMALL = {"steps": 6, "evaluate_every": 3, "save_every": 6, "model": {"width": 16}}


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    """Iris networks, all of one task, none held out; a canonical zoo."""
    folder = tmp_path_factory.mktemp("iris")
    build_zoo(read_recipe("iris", {"tasks": {"seen": 12}, "training": {"steps": 30}}), folder / "zoo")
    canonicalize_zoo(Zoo(folder / "zoo"), folder / "canonical")
    return Zoo(folder / "canonical")


@pytest.fixture(scope="module")
def published(iris):
    folder = iris.path.with_name("published")
    start(iris, read_preset("deepweightflow", SMALL), folder).run()
    return folder


def test_networks_are_generated_without_classes(published, tmp_path):
    done = CliRunner().invoke(
        app, ["sample", str(published), "--count", "5", "--out", str(tmp_path / "nets")]
    )
    assert done.exit_code == 0, done.output
    made = Zoo(tmp_path / "nets")
    assert {record.classes for record in made.records} == {("setosa", "versicolor", "virginica")}
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nets"), "--json"])
    assert json.loads(done.stdout)["zoo"]["count"] == 5


def test_the_published_sampler_takes_396_evaluations(published):
    assert Flow(published).sampling.evaluations == 396


def test_components_stay_in_the_span_of_the_training_networks(published):
    """Eleven networks learned from span ten components; a twelfth is held out."""
    flow = Flow(published)
    assert flow.coordinates.layout.width == 10
    state = flow.sample_states([Prompt(flow.header.zoo.classes)], [0])
    present = torch.ones(1, 3, dtype=torch.bool)
    again = flow.coordinates.decode(flow.coordinates.encode(state, present), present)
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=1e-4)


def test_the_published_figures_stand_in_the_preset():
    config = read_preset("deepweightflow", {})
    assert (config.steps, config.batch_size, config.learning_rate, config.betas) == (
        30000,
        8,
        5e-4,
        (0.9, 0.95),
    )
    assert (config.objective.source, config.objective.jitter, config.model.dropout) == (0.01, 1e-3, 0.1)
    assert (config.coordinates.kind, config.coordinates.count) == ("components", 99)


def accuracy_of_generated(zoo, folder, weight):
    """Of eight networks on training examples, after sixty steps."""
    changes = {
        "steps": 60,
        "evaluate_every": 30,
        "save_every": 60,
        "learning_rate": 5e-3,
        "model": {"width": 16},
        "behaviour": {"weight": weight, "images": 16, "sampled": 1.0 if weight else 0.0},
    }
    start(zoo, read_preset("narrow", changes), folder).run()
    task = zoo.records[0].task
    state = Flow(folder).sample_states([Prompt(task.classes)] * 8, range(8))
    found = measured(zoo.architecture, state, datasets.load("iris"), [task] * 8)
    return sum(accuracy["train"] for accuracy in found) / 8


def test_behaviour_of_sampled_networks_teaches_what_weights_alone_do_not(iris, tmp_path):
    taught = accuracy_of_generated(iris, tmp_path / "taught", 3.0)
    assert taught > accuracy_of_generated(iris, tmp_path / "alone", 0.0) + 0.1
