"""Presets: read whole, as their papers have them, trained at their small size, refused where they do not fit."""

import dataclasses

import pytest

from canon.errors import InputError, InputWarning
from weightflow.flow.denoising import DENOISERS
from weightflow.generator.generator import Flow
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import make_layout
from weightflow.text import Prompt
from weightflow.training.presets import built_in, read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

from .test_trainer import assert_same_run

FEW = {"steps": 6, "evaluate_every": 3, "save_every": 3, "batch_size": 8}
TINY = {**FEW, "model": {"width": 16, "depth": 1, "heads": 2}, "behaviour": {"images": 8}}


@pytest.mark.parametrize("name", built_in())
def test_every_preset_can_be_read_and_says_its_sampler(name):
    config = read_preset(name, {})
    assert config.sample.evaluations is None or config.sample.evaluations >= 1
    assert config.steps > config.warmup


def test_the_papers_own_figures_stand_in_their_presets():
    t2w, tina = read_preset("t2w", {}), read_preset("tina", {})
    assert (t2w.model.width, t2w.model.depth, t2w.model.heads) == (1024, 6, 8)
    assert (tina.model.width, tina.model.depth, tina.model.heads) == (2048, 12, 16)
    for paper in (t2w, tina):
        assert (paper.learning_rate, paper.weight_decay, paper.clip) == (4e-4, 0.1, 0.1)
        assert (paper.average_decay, paper.chunk, paper.objective.path) == (0.9999, 576, "diffusion")
        assert DENOISERS[paper.sample.method].draws
        assert paper.sample.steps == 1000
    head = Architecture("linear_head", {"inputs": 64}, (64,), 10)
    assert make_layout(head, tina.layout, tina.chunk).tokens == 3
    assert tina.augment.permute_classes and tina.model.conditioning == "classes"  # noqa: PT018
    assert t2w.augment.permute_units and t2w.model.conditioning == "prior_attention"  # noqa: PT018


@pytest.fixture(scope="module")
def sorted_zoo(tiny_recipe, tmp_path_factory):
    """Logits in the data set's order, so that a set of classes says everything."""
    tasks = dataclasses.replace(tiny_recipe.tasks, shuffled=False, seen=12)
    training = dataclasses.replace(tiny_recipe.training, steps=10)
    folder = tmp_path_factory.mktemp("sorted") / "zoo"
    build_zoo(dataclasses.replace(tiny_recipe, tasks=tasks, training=training), folder)
    return Zoo(folder)


@pytest.mark.parametrize("name", ["t2w-small", "tina-small"])
def test_the_small_size_trains_and_generates_the_same_twice(name, sorted_zoo, tmp_path):
    for place in ("a", "b"):
        start(sorted_zoo, read_preset(name, TINY), tmp_path / place).run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    state = Flow(tmp_path / "a").sample_states([Prompt(("one", "two", "six"))], [0])
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("t2w-small", {}, "'prior_attention' loses the order of the classes, and the logits of .* set model"),
        (
            "weightflow",
            {"model": {"conditioning": "none"}},
            "'none' tells the model of no task, but .* has 40: set model.conditioning=classes",
        ),
        (
            "weightflow",
            {"model": {"kind": "mlp"}},
            "model.kind 'mlp' loses the order of the classes, .* set model.kind=transformer",
        ),
        (
            "tina-small",
            {"coordinates": {"kind": "components"}},
            "augment.permute_classes relabels tokens, which coordinates.kind 'components' does not have: set",
        ),
    ],
)
def test_a_preset_that_does_not_fit_the_zoo_says_which_part(zoo, tmp_path, name, changes, message):
    with pytest.raises(InputError, match=message):
        start(zoo, read_preset(name, {**TINY, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_units_are_permuted_only_where_there_are_some(tmp_path):
    changes = {
        "architecture": {"name": "linear_head", "arguments": {"inputs": 64}},
        "dataset": "digits",
        "tasks": {"shuffled": False, "sizes": [2, 3], "seen": 6, "validation": 2, "unseen": 2},
        "training": {"steps": 5},
    }
    with pytest.warns(InputWarning, match="left out for 'linear_head': hidden"):
        recipe = read_recipe("digits", changes)
    build_zoo(recipe, tmp_path / "zoo")
    with pytest.raises(InputError, match="'linear_head' has no hidden units to permute; set augment"):
        start(
            Zoo(tmp_path / "zoo"),
            read_preset("t2w-small", {**TINY, "augment": {"permute_units": True}}),
            tmp_path / "run",
        )
