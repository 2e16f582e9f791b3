"""A canonical zoo holds the same functions in one frame."""

import dataclasses

import pytest
import torch

from canon.actions import permutation as perm
from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.inference import forward_many
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import (
    align_to_frame,
    canonicalize_zoo,
    gather_classes,
    is_canonical_form_of,
    read_frame,
    scatter_classes,
)
from weightflow.zoo.recipe import ArchitectureChoice, read_recipe
from weightflow.zoo.store import Zoo

DIGITS = datasets.load("digits")


def logits(zoo, state):
    inputs = DIGITS.validation.inputs[:20].double().expand(len(zoo), -1, -1)
    with torch.no_grad():
        return forward_many(zoo.architecture)({k: v.double() for k, v in state.items()}, inputs)


def test_functions_records_and_order_are_kept(raw_zoo, zoo):
    torch.testing.assert_close(logits(zoo, zoo.load()), logits(raw_zoo, raw_zoo.load()), atol=1e-5, rtol=1e-5)
    assert [r.id for r in zoo.records] == [r.id for r in raw_zoo.records]
    assert [r.classes for r in zoo.records] == [r.classes for r in raw_zoo.records]


def test_networks_come_closer_to_each_other(raw_zoo, zoo):
    def spread(opened):
        weight = opened.load(opened.rows("seen"))["1.weight"]
        return float(weight.var(0).sum() / weight.square().mean(0).sum())

    assert spread(zoo) < spread(raw_zoo) - 0.03


def test_gather_undoes_scatter(raw_zoo):
    tasks, state = [r.task for r in raw_zoo.records], raw_zoo.load()
    wide = scatter_classes(raw_zoo.architecture, state, tasks)
    assert wide["3.weight"].shape == (len(tasks), 10, 12)
    back = gather_classes(raw_zoo.architecture, wide, tasks)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_relabelled_network_finds_its_place_again(zoo):
    tasks, state = [r.task for r in zoo.records], zoo.load()
    generator, spec = torch.Generator().manual_seed(0), zoo.architecture.spec
    shuffled = perm.apply(spec, perm.random(spec, generator, (len(tasks),)), state)
    found = align_to_frame(zoo.architecture, read_frame(zoo), shuffled, tasks)
    again = align_to_frame(zoo.architecture, read_frame(zoo), state, tasks)
    for name in state:
        torch.testing.assert_close(found[name], again[name], atol=1e-6, rtol=1e-5)


def test_done_before_is_recognised(raw_zoo, zoo, tmp_path):
    assert is_canonical_form_of(zoo.path, raw_zoo)
    assert not is_canonical_form_of(tmp_path, raw_zoo)
    assert not is_canonical_form_of(raw_zoo.path, raw_zoo)


def test_a_folder_with_other_content_is_left_alone(raw_zoo, zoo, tiny_recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        canonicalize_zoo(raw_zoo, tmp_path)
    other, small = tmp_path / "other", dataclasses.replace(tiny_recipe.tasks, seen=2, validation=1, unseen=1)
    build_zoo(dataclasses.replace(tiny_recipe, tasks=small), other)
    with pytest.raises(InputError, match="holds the canonical form of another zoo"):
        canonicalize_zoo(Zoo(other), zoo.path)
    with pytest.raises(InputError, match="is the input itself"):
        canonicalize_zoo(raw_zoo, raw_zoo.path)


def test_a_zoo_without_frame_says_how_to_get_one(raw_zoo):
    with pytest.raises(InputError, match="is not canonical; run: weightflow canonicalize"):
        read_frame(Zoo(raw_zoo.path))


def test_networks_without_hidden_units_stay_as_they_are(tmp_path):
    tasks = {"sizes": [2, 3], "seen": 4, "validation": 2, "unseen": 2}
    recipe = dataclasses.replace(
        read_recipe("digits", {"tasks": tasks, "training": {"steps": 2}}),
        architecture=ArchitectureChoice("linear_head", {"inputs": 64}),
    )
    build_zoo(recipe, tmp_path / "zoo")
    canonicalize_zoo(Zoo(tmp_path / "zoo"), tmp_path / "canonical")
    before, after = Zoo(tmp_path / "zoo").load(), Zoo(tmp_path / "canonical").load()
    assert all(torch.equal(before[name], after[name]) for name in before)
