"""Baselines answer every prompt, reduce to each other where they must, and say where they do not apply."""

import dataclasses

import pytest
import torch

from weightflow.evaluation.baselines import BASELINES, Inapplicable, answer
from weightflow.evaluation.baselines.averages import mean_of_nearest, zoo_mean_rows
from weightflow.evaluation.baselines.gaussian import gaussian, gaussian_pc
from weightflow.evaluation.baselines.generalist import FILE
from weightflow.evaluation.baselines.hypernetwork import FOLDER
from weightflow.evaluation.baselines.noise import noise
from weightflow.evaluation.baselines.retrieval import nearest_rows
from weightflow.evaluation.baselines.ridge import predict_rows
from weightflow.evaluation.context import open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.novelty import nearest_distances


@pytest.fixture(scope="module")
def tasks(context):
    return context.tasks_of(context.zoo.rows("unseen_combinations"))


def assert_same(a, b, tolerance=0.0):
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_answers_every_prompt(context, tasks, name):
    state = answer(context, name, tasks, 0)
    assert {n: tuple(t.shape[1:]) for n, t in state.items()} == context.zoo.architecture.shapes
    assert all(len(t) == len(tasks) and t.isfinite().all() for t in state.values())
    if name != "zoo_mean":  # which takes logits as they come
        for row, task in enumerate(tasks):
            assert not state["3.weight"][row, len(task.classes) :].any()


def test_retrieval_finds_the_very_network_for_a_prompt_it_knows(context):
    for name in ("nearest_prompt", "nearest_rows"):
        found = answer(context, name, context.tasks[:10], 0)
        accuracy = evaluate_networks(context.zoo.architecture, found, context.tasks[:10]).accuracy
        own = {k: v[:10] for k, v in context.picked(range(len(context.rows))).items()}
        expected = evaluate_networks(context.zoo.architecture, own, context.tasks[:10]).accuracy
        assert float(accuracy.mean()) >= float(expected.mean()) - 0.05


def test_a_mean_of_one_and_noise_of_none_are_retrieval(context, tasks):
    retrieved = nearest_rows(context, tasks, 3)
    assert_same(mean_of_nearest(context, tasks, 3, networks=1), retrieved, 1e-6)
    assert_same(noise(context, tasks, 3, size=0.0), retrieved)


def test_a_mean_of_everyone_is_the_mean_of_the_zoo(context, tasks):
    everyone = mean_of_nearest(context, tasks, 0, networks=len(context.rows))
    assert_same(everyone, zoo_mean_rows(context, tasks, 0), 1e-5)


def test_a_gaussian_has_the_mean_and_the_deviation_of_the_zoo(context):
    one = context.tasks[:1] * 600
    assert_same(gaussian_pc(context, one, 0, spread=0.0), zoo_mean_rows(context, one, 0), 1e-6)
    name = "1.weight"
    deviation = context.picked(range(len(context.rows)))[name].std(0, correction=0)
    for draw in (gaussian, gaussian_pc):
        found = draw(context, one, 0)[name].std(0, correction=0)
        torch.testing.assert_close(found.mean(), deviation.mean(), rtol=0.05, atol=0)


def test_the_nearest_class_of_a_known_class_is_itself(context, tasks):
    assert_same(answer(context, "nearest_class", tasks, 0), zoo_mean_rows(context, tasks, 0), 1e-6)


def test_ridge_recovers_a_linear_map_also_where_it_saw_nothing():
    generator = torch.Generator().manual_seed(0)
    x, asked = torch.randn(30, 5, generator=generator), torch.randn(4, 5, generator=generator)
    weights = torch.randn(5, 7, generator=generator)
    found = predict_rows(x.double(), (x @ weights + 2).double(), asked.double())
    torch.testing.assert_close(found, (asked @ weights + 2).double(), atol=1e-3, rtol=1e-3)


def test_a_generalist_is_one_network_whose_rows_are_picked_and_is_trained_once(context, tasks):
    found = answer(context, "generalist", tasks, 0)
    stored = (context.zoo.path / FILE).stat().st_mtime_ns
    again = answer(context, "generalist", [tasks[0]] * 4, 0)
    assert (context.zoo.path / FILE).stat().st_mtime_ns == stored
    assert torch.equal(found["1.weight"][0], again["1.weight"][0])
    assert torch.equal(again["1.weight"][0], again["1.weight"][3])  # three of them, in turn
    assert not torch.equal(again["1.weight"][0], again["1.weight"][1])
    turned = dataclasses.replace(tasks[0], classes=tasks[0].classes[::-1])
    rows = answer(context, "generalist", [turned], 0)["3.weight"][0, : len(turned.classes)]
    assert torch.equal(rows.flip(0), found["3.weight"][0, : len(turned.classes)])


def test_a_hypernetwork_gives_one_network_a_prompt_and_is_trained_once(context, tasks):
    found = answer(context, "hypernetwork", [tasks[0], tasks[0]], 0)
    stored = (context.flow.folder / FOLDER / "state.safetensors").stat().st_mtime_ns
    assert_same(answer(context, "hypernetwork", [tasks[0], tasks[0]], 5), found)
    assert (context.flow.folder / FOLDER / "state.safetensors").stat().st_mtime_ns == stored
    assert torch.equal(found["1.weight"][0], found["1.weight"][1])


def test_where_all_networks_have_one_task_a_prompt_has_no_baseline(one_task_run):
    context = open_context(one_task_run)
    for name in ("shuffled_prompt", "random_text", "ridge_rows", "generalist", "hypernetwork"):
        with pytest.raises(Inapplicable, match="all networks have one task"):
            answer(context, name, context.tasks, 0)
    picked = answer(context, "nearest_rows", context.tasks, 0)
    assert len(torch.unique(picked["1.weight"].flatten(1), dim=0)) > 1


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"generalist", "hypernetwork"}))
def test_baselines_of_a_zoo_larger_than_memory_are_those_of_one_in_memory(run, context, monkeypatch, name):
    tasks = context.tasks[:3]
    expected = answer(context, name, tasks, 5)
    distance = nearest_distances(context, expected, tasks)
    monkeypatch.setattr("weightflow.evaluation.context.IN_MEMORY", 0)
    monkeypatch.setattr("weightflow.evaluation.context.PART", 7)
    streamed = open_context(run)
    assert_same(answer(streamed, name, tasks, 5), expected, 1e-5)
    torch.testing.assert_close(nearest_distances(streamed, expected, tasks).ratios, distance.ratios)
