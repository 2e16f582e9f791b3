"""Classes made of classes: what a text means, which examples follow, and who is right."""

import dataclasses

import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.class_axes import class_table
from weightflow.batched.inference import accuracies
from weightflow.batched.tasks import Task
from weightflow.data.class_groups import labels_of_classes, members
from weightflow.evaluation.population import evaluate_zoo
from weightflow.generator.generator import Flow
from weightflow.generator.populations import generate_zoo
from weightflow.report import make_report
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

PETS = ("cat", "dog", "hamster", "car", "truck")


def test_unions_names_and_other_are_read():
    assert members("cat or dog", PETS) == ("cat", "dog")
    assert members("pet = cat or dog or hamster", PETS) == ("cat", "dog", "hamster")
    assert members("other", PETS) == ()
    assert members("cat", PETS) is None
    assert members("a small or a large animal", PETS) is None
    assert members("other", (*PETS, "other")) is None
    assert members("now or never", (*PETS, "now or never")) is None
    assert labels_of_classes("pets", ["a = cat or car", "dog", "other"], PETS) == [[0, 3], [1], [2, 4]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat or cat", "dog"], "names 'cat' twice"),
        (["pet = cat or", "dog"], "'cat or' has no class on one side of `or`"),
        (["or cat", "dog"], "'or cat' has no class on one side"),
        (["cat or dgo", "car"], "'dgo' is not a known class; nearest: dog"),
        (["cat or dog", "dog or car"], "'dog' stands in two classes, 'cat or dog' and 'dog or car'"),
        (["cat or dog", "dog"], "'dog' stands in two classes"),
        (["cat", "other", "rest = other"], "both mean all other classes"),
        (["cat or dog or hamster", "car or truck", "other"], "no class is left for 'other'"),
        (["cat", "wolf"], "has no class 'wolf'"),
    ],
)
def test_groupings_that_mean_nothing_are_refused(classes, message):
    with pytest.raises(InputError, match=message):
        labels_of_classes("pets", classes, PETS)


def test_a_member_of_a_union_is_right_for_another():
    data = datasets.load("digits")
    tasks = [Task("digits", ("one or seven", "three", "other")), Task("digits", ("one", "seven"))]
    labels = torch.tensor([1, 7, 3, 0, 9])
    predicted = torch.tensor([[7, 1, 3, 2, 3], [7, 7, -1, -1, -1]])
    torch.testing.assert_close(accuracies(predicted, labels, data, tasks), torch.tensor([0.8, 0.5]))
    positions, mask = class_table(data, tasks, 4)
    assert positions[0].tolist() == [2, 0, 2, 1, 2, 2, 2, 0, 2, 2]
    assert mask.sum(1).tolist() == [3, 2]


SMALL = {
    "tasks": {"seen": 30, "validation": 6, "unseen": 6},
    "training": {"steps": 60},
    "shard_size": 50,
    "architecture": {"arguments": {"inputs": 64, "hidden": [8]}},
}
RUN = {
    "steps": 8,
    "batch_size": 8,
    "evaluate_every": 4,
    "save_every": 8,
    "model": {"width": 16, "depth": 2, "heads": 2},
    "behaviour": {"images": 8, "beyond": 0.5},
    "augment": {"permute_classes": True},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groupings")
    build_zoo(read_recipe("digits_groupings", SMALL), folder / "zoo")
    canonicalize_zoo(Zoo(folder / "zoo"), folder / "canonical")
    start(Zoo(folder / "canonical"), read_preset("weightflow", RUN), folder / "run").run()
    return folder / "run"


def test_a_zoo_of_groupings_learns_them_and_holds_some_out(run):
    zoo, data = Zoo(run.with_name("canonical")), datasets.load("digits")
    keys = {
        s: {_key(data, zoo.records[i].classes) for i in zoo.rows(s)} for s in ("seen", "unseen_combinations")
    }
    assert not keys["seen"] & keys["unseen_combinations"]
    assert any(" or " in name for record in zoo.records for name in record.classes)
    assert any("other" in record.classes for record in zoo.records)
    chance = sum(1 / len(record.classes) for record in zoo.records) / len(zoo)
    assert evaluate_zoo(zoo)["zoo"]["accuracy"]["mean"] > chance + 0.2


def _key(data, classes):
    return frozenset(map(frozenset, data.class_labels(classes)))


def test_unions_go_from_a_prompt_through_a_zoo_to_judgement(run, tmp_path):
    flow = Flow(run)
    assert flow.known_classes == datasets.load("digits").class_names
    prompt = Prompt.parse("odd = one or three or five, two, other")
    list(generate_zoo(flow, [prompt], 2, 0, flow.sampling, tmp_path / "nets"))
    zoo = Zoo(tmp_path / "nets")
    assert zoo.records[0].classes == ("odd = one or three or five", "two", "other")
    assert evaluate_zoo(zoo)["zoo"]["count"] == 2
    words = flow.prompts([prompt]).vectors[0]
    torch.testing.assert_close(words[:2].square().mean(1), torch.ones(2))
    assert not words[2].any()  # other
    assert words[:2].isfinite().all()


@pytest.mark.parametrize(
    "text",
    [
        "one or two, two or three",
        "one or two, two or three, a thing that nobody knows",
        "one or one, two",
        "odd = one or, two",
        "one or tow, three",
        "one, other, rest = other",
        "other",
        "other, other",
        "zero or one or two or three or four, five or six or seven or eight or nine, other",
    ],
)
def test_prompts_that_mean_nothing_write_nothing(run, tmp_path, text):
    flow = Flow(run)
    with pytest.raises(InputError):
        list(generate_zoo(flow, [Prompt.parse(text)], 1, 0, flow.sampling, tmp_path / "nets"))
    assert not (tmp_path / "nets").exists()


def test_settings_that_would_leak_are_refused():
    tasks = read_recipe("digits_groupings", {}).tasks
    with pytest.raises(InputError, match=r"set tasks\.held_out to 0"):
        dataclasses.replace(tasks, held_out=2)
    with pytest.raises(InputError, match=r"tasks\.unions"):
        dataclasses.replace(tasks, unions=(3, 1))


@pytest.mark.slow
def test_a_report_has_unseen_groupings_and_says_which_baselines_cannot_answer(run):
    report = make_report(run)
    found = report["splits"]["unseen_combinations"]
    assert found["accuracy"]["mean"] > 0
    assert "made of classes" in found["baselines"]["nearest_rows"]["reason"]
    assert found["baselines"]["nearest_prompt"]["mean"] is not None
