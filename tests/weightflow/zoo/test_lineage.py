"""Where networks come from: their own initialisation, a few shared ones, or one base; recorded, never mixed."""

import shutil

import pytest
import torch

from canon.errors import InputError
from canon.io import checkpoint
from weightflow import datasets
from weightflow.batched.accuracy import some_of
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.zoo.builders.base_network import BASE_FILE, branches, trained_base
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

DIGITS = datasets.load("digits")
TINY = {
    "architecture": {"arguments": {"inputs": 64, "hidden": [12]}},
    "tasks": {"sizes": [2, 3], "seen": 6, "validation": 2, "unseen": 2},
    "training": {"steps": 20, "batch_size": 16},
    "base": {"steps": 60},
    "shard_size": 5,
}


def recipe(**changes):
    return read_recipe("digits", {**TINY, **changes})


@pytest.fixture(scope="module")
def branched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branched") / "zoo"
    tasks = {**TINY["tasks"], "held_out": 3, "unseen_classes": 2}
    build_zoo(recipe(lineage="branched", tasks=tasks), folder)
    return Zoo(folder)


def test_branches_say_so_and_name_their_parent(branched):
    assert {(r.lineage, r.parent) for r in branched.records} == {("branched", "base")}
    assert branched.manifest["base"]["file"] == BASE_FILE


@pytest.mark.parametrize("lost", [False, True])
def test_a_base_that_is_damaged_or_lost_is_trained_again(branched, tmp_path, lost):
    shutil.copytree(branched.path, tmp_path / "zoo")
    path = tmp_path / "zoo" / BASE_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    if lost:
        path.unlink()
    assert Zoo(tmp_path / "zoo").verify()
    tasks = {**TINY["tasks"], "held_out": 3, "unseen_classes": 2}
    assert build_zoo(recipe(lineage="branched", tasks=tasks), tmp_path / "zoo") == 0
    assert path.read_bytes() == whole
    assert not Zoo(tmp_path / "zoo").verify()


def test_a_branch_starts_with_its_own_rows_of_the_base(branched):
    plan = recipe(lineage="branched", tasks={**TINY["tasks"], "held_out": 3, "unseen_classes": 2})
    base, held_out = trained_base(branched.path, plan), branched.manifest["held_out_classes"]
    known = next(r.classes for r in branched.records if r.split == "seen")
    start = branches(
        branched.architecture, base, [Task("digits", known), Task("digits", tuple(held_out[:2]))]
    )
    rows = base["3.weight"][0, DIGITS.class_index(known)]
    assert torch.equal(start["3.weight"][0, : len(known)], rows)
    assert torch.equal(start["1.weight"][0], base["1.weight"][0])
    assert not start["3.weight"][1].any()


def test_branches_stay_nearer_to_each_other_than_strangers(branched, raw_zoo):
    def spread(zoo):
        weight = zoo.load(zoo.rows("seen"))["1.weight"]
        return float(weight.var(0).sum() / weight.square().mean(0).sum())

    assert spread(branched) < 0.5 * spread(raw_zoo)


def test_held_out_classes_are_in_their_own_split_alone(branched):
    held_out = set(branched.manifest["held_out_classes"])
    assert len(held_out) == 3
    for record in branched.records:
        if record.split == "unseen_classes":
            assert set(record.classes) <= held_out
        else:
            assert not set(record.classes) & held_out
    assert checkpoint.read(branched.path / BASE_FILE).state["3.bias"].shape == (7,)


def test_the_base_is_trained_once_and_survives(branched, monkeypatch):
    plan = recipe(lineage="branched", tasks={**TINY["tasks"], "held_out": 3, "unseen_classes": 2})
    before = branched.identity
    monkeypatch.setattr("weightflow.zoo.builders.base_network.train_many", None)
    assert build_zoo(plan, branched.path) == 0
    assert Zoo(branched.path).identity == before


def test_shared_initialisations_with_other_mini_batches(tmp_path):
    tasks = {"sizes": [10, 10], "seen": 4, "validation": 0, "unseen": 0, "shuffled": False}
    plan = recipe(initialisations=2, tasks=tasks, training={"steps": 1, "learning_rate": 1e-9})
    build_zoo(plan, tmp_path / "zoo")
    zoo = Zoo(tmp_path / "zoo")
    weight = zoo.load()["1.weight"]
    first = initialise(zoo.architecture, [0, 1])["1.weight"]
    torch.testing.assert_close(weight, first[[0, 1, 0, 1]], atol=1e-6, rtol=1e-5)
    assert {r.classes for r in zoo.records} == {DIGITS.class_names}
    assert {r.lineage for r in zoo.records} == {"independent"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lineage": "mixed"}, "unknown lineage 'mixed'; there are: branched, independent"),
        ({"lineage": "branched", "initialisations": 3}, "initialisations are for independent networks"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"tasks": {"held_out": 10}}, "tasks.held_out is 10; 'digits' has 10 classes"),
        ({"tasks": {"held_out": 1, "unseen_classes": 2}}, "there are 1 such classes"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        recipe(**{**changes, "tasks": {**TINY["tasks"], **changes.get("tasks", {})}}).make_tasks()


def test_training_accuracy_is_measured_on_enough_examples():
    few = some_of(DIGITS.train, 100)
    assert len(few) == 100
    assert torch.equal(few.inputs[0], DIGITS.train.inputs[0])
    assert some_of(DIGITS.train) is DIGITS.train
