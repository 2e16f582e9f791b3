"""Initialisations are what their papers say; every start walks the same mini-batches."""

import dataclasses
import math

import pytest
import torch

from weightflow import datasets
from weightflow.batched import training
from weightflow.evaluation import fine_tuning
from weightflow.evaluation.fine_tuning import INITIALISATIONS, zoo_recipe


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("xavier", lambda i, o: math.sqrt(6 / (i + o))),
        ("kaiming", lambda i, o: math.sqrt(6 / i)),
        ("default", lambda i, o: 1 / math.sqrt(i)),
    ],
)
def test_initialisations_stay_within_their_bounds(context, name, bound):
    tasks = context.tasks[:6]
    state = INITIALISATIONS[name](context.zoo.architecture, tasks, range(6))
    weight = state["1.weight"]
    assert 0.95 * bound(64, 12) < float(weight.abs().max()) <= bound(64, 12)
    if name != "default":
        assert not state["1.bias"].any()
    for row, task in enumerate(tasks):
        assert not state["3.weight"][row, len(task.classes) :].any()
    alone = INITIALISATIONS[name](context.zoo.architecture, tasks[2:3], [2])
    assert torch.equal(alone["1.weight"][0], weight[2])


def test_no_steps_change_nothing_and_steps_help(context):
    tasks, seeds = context.tasks[:8], range(8)
    recipe = zoo_recipe(context.zoo)
    assert recipe.schedule == "constant"
    begin = INITIALISATIONS["default"](context.zoo.architecture, tasks, seeds)
    curve = fine_tuning.curve(context.zoo.architecture, begin, tasks, seeds, recipe, [0, 30])
    assert float(curve[30].mean()) > float(curve[0].mean()) + 0.2


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_one_training_gives_what_each_of_its_beginnings_gives(context, schedule, monkeypatch):
    tasks, seeds, data = context.tasks[:4], range(4), datasets.load(context.zoo.dataset)
    recipe = zoo_recipe(context.zoo, schedule=schedule)
    begin = INITIALISATIONS["default"](context.zoo.architecture, tasks, seeds)
    trained = []
    many = training.train_many
    monkeypatch.setattr(training, "train_many", lambda *a, **k: trained.append(a) or many(*a, **k))
    found = training.train_to_each(context.zoo.architecture, data, tasks, seeds, recipe, [0, 3, 9], begin)
    assert found[0] is begin
    assert len(trained) == (1 if schedule == "constant" else 2)
    for count in (3, 9):
        alone = many(
            context.zoo.architecture,
            data,
            tasks,
            seeds,
            dataclasses.replace(recipe, steps=count),
            start=begin,
        )
        assert all(torch.equal(found[count][name], alone.state[name]) for name in begin)
