"""A zoo of one task: the whole pipeline without a word, from the published preset."""

import json

import pytest
import torch
from typer.testing import CliRunner

from weightflow.canonicalize import canonicalize_zoo
from weightflow.cli import app
from weightflow.presets import read_preset
from weightflow.sample import Flow
from weightflow.text import Prompt
from weightflow.train import start
from weightflow.zoo.build import build_zoo
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
    state = flow.sample([Prompt(flow.header.zoo.classes)], [0])
    present = torch.ones(1, 3, dtype=torch.bool)
    again = flow.coordinates.decode(flow.coordinates.encode(state, present), present)
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=1e-4)
