"""Distances and disagreements: copies are found, missing rows say nothing, batched sums are plain ones."""

import math

import pytest
import torch

from weightflow.batched.tasks import Task
from weightflow.evaluation import novelty
from weightflow.evaluation.context import open_context
from weightflow.evaluation.error_overlap import compare_behaviour
from weightflow.evaluation.evaluate import Predictions, evaluate_networks
from weightflow.evaluation.novelty import Rows, mean_distance, nearest_distances, novel_and_good


def test_copies_have_no_distance_and_other_networks_do(context):
    copies = nearest_distances(context, context.picked(range(len(context.rows))), context.tasks)
    assert float(copies.ratios.max()) < 0.02
    rows = context.zoo.rows("unseen_combinations")
    others = nearest_distances(context, context.zoo.load(rows), context.tasks_of(rows))
    assert 0.7 < float(others.ratios.mean()) < 1.5


def entry_by_entry(a, used_a, b, used_b):
    """Distances where every entry is a class of its own."""
    return novelty.distances({"": a}, used_a, {"": b}, used_b, {"": 0})


def test_distance_leaves_out_what_one_side_lacks():
    a, used_a = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    b, used_b = torch.tensor([[1.0, 5.0, 4.0]]), torch.tensor([[True, True, True]])
    assert float(entry_by_entry(a, used_a, b, used_b)) == pytest.approx(math.sqrt(9 / 2))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_distance_in_blocks_is_distance(monkeypatch, share):
    monkeypatch.setattr(novelty, "BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 40, generator=generator) for n in (3, 5))
    used_a, used_b = (torch.rand(n, 40, generator=generator) <= share for n in (3, 5))
    both = used_a[:, None] & used_b
    plain = ((a[:, None] - b).square() * both).sum(-1).div(both.sum(-1)).sqrt()
    torch.testing.assert_close(entry_by_entry(a, used_a, b, used_b), plain.double(), atol=1e-6, rtol=1e-6)


def test_rows_of_classes_are_compared_where_both_have_them(monkeypatch):
    monkeypatch.setattr(novelty, "BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.randn(n, 6, 4, 3, generator=generator), "u": torch.randn(n, 9)} for n in (3, 5))
    has_a, has_b = (torch.rand(n, 4, generator=generator) < 0.6 for n in (3, 5))
    found = novelty.distances(a, has_a, b, has_b, {"w": 1})
    for i in range(3):
        for j in range(5):
            both = has_a[i] & has_b[j]
            parts = [(a["w"][i] - b["w"][j])[:, both].flatten(), a["u"][i] - b["u"][j]]
            expected = torch.cat(parts).double().square().mean().sqrt()
            torch.testing.assert_close(found[i, j], expected, atol=1e-6, rtol=1e-6)


def test_the_nearest_in_blocks_of_networks_is_the_nearest(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        Rows({"w": torch.randn(n, 6, 4, generator=generator)}, torch.rand(n, 4, generator=generator) < 0.6)
        for n in (7, 11)
    )
    plain = novelty.distances(a.state, a.has, b.state, b.has, {"w": 1}).min(dim=1).values
    among = novelty.distances(b.state, b.has, b.state, b.has, {"w": 1})
    among = among.fill_diagonal_(torch.inf).min(dim=1).values
    monkeypatch.setattr(novelty, "ROWS", 3)
    torch.testing.assert_close(novelty.nearest(a, b.parts(), {"w": 1}), plain)
    some = torch.tensor([10, 0, 4])  # of a few only, each left out itself
    torch.testing.assert_close(novelty.nearest(b[some], b.parts(), {"w": 1}, some), among[some])


def test_no_matrix_of_all_pairs_is_made(monkeypatch):
    shapes = []
    plain = novelty.distances

    def seen(*arguments):
        found = plain(*arguments)
        shapes.append(found.shape)
        return found

    monkeypatch.setattr(novelty, "distances", seen)
    many = Rows({"w": torch.randn(600, 2)}, torch.ones(600, 3, dtype=torch.bool))
    assert len(novelty.nearest(many, many.parts(), {}, torch.arange(600))) == 600
    assert max(max(shape) for shape in shapes) <= novelty.ROWS


def test_a_limit_bounds_the_networks_that_the_zoo_is_measured_by(run):
    whole, few = open_context(run), open_context(run, limit=5)
    assert len(few.some_tasks) == 5 < len(whole.some_tasks) == len(whole.rows)
    assert novelty.spacing(few) == pytest.approx(novelty.spacing(whole), rel=0.5)
    assert novelty.spacing(few) != novelty.spacing(whole)
    assert 0.05 < novelty.spacing_share(whole) < 2


def test_copies_of_one_network_have_no_diversity(context):
    one = {
        name: tensor[:1].expand(3, *tensor.shape[1:])
        for name, tensor in context.picked(range(len(context.rows))).items()
    }
    assert mean_distance(context, one, context.tasks[:1] * 3) < 1e-6
    assert mean_distance(context, context.picked(range(len(context.rows))), context.tasks) > 0.01


def test_new_alone_or_good_alone_is_not_enough():
    ratios, accuracy = torch.tensor([0.1, 1.5, 2.5, 2.5]), torch.tensor([0.9, 0.9, 0.3, 0.9])
    found = novel_and_good(ratios, accuracy, torch.full((4,), 0.9))
    assert found == {"1": 0.5, "2": 0.25, "3": 0.0, "4": 0.0}


def predictions(predicted, labels):
    counted = torch.ones(predicted.shape, dtype=torch.bool)
    right = (predicted == labels).double().mean(1).float()
    return Predictions(predicted, torch.ones(predicted.shape), counted, labels, right)


def test_compared_in_products_is_compared_one_by_one():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=generator)
    a, b = (torch.randint(3, (n, 50), generator=generator) for n in (4, 6))
    task = Task("digits", ("one", "two", "three"))
    found = compare_behaviour(predictions(a, labels), [task] * 4, predictions(b, labels), [task] * 6)
    ious, differs = [], []
    for x in a:
        wrong = [((x != labels) & (y != labels)).sum() / ((x != labels) | (y != labels)).sum() for y in b]
        ious.append(max(map(float, wrong)))
        differs.append(sum(float((x != y).float().mean()) for y in b) / len(b))
    assert found.wrong_iou == pytest.approx(sum(ious) / 4)
    assert found.disagreement == pytest.approx(sum(differs) / 4)


def test_a_population_compared_with_itself_leaves_each_network_out(context):
    tasks = [Task("digits", ("one", "two"))] * 2
    state = {name: tensor[[0, 0]] for name, tensor in context.picked(range(len(context.rows))).items()}
    twice = evaluate_networks(context.zoo.architecture, state, tasks)
    twins = compare_behaviour(twice, tasks, twice, tasks)
    assert (twins.wrong_iou, twins.disagreement) == (1.0, 0.0)
    alone = [Task("digits", ("one", "two")), Task("digits", ("one", "three"))]
    apart = evaluate_networks(context.zoo.architecture, state, alone)
    assert compare_behaviour(apart, alone, apart, alone).wrong_iou is None


def test_networks_that_share_nothing_are_no_neighbours():
    a, used_a = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    b, used_b = torch.tensor([[0.0, 5.0], [3.0, 0.0]]), torch.tensor([[False, True], [True, False]])
    assert entry_by_entry(a, used_a, b, used_b).tolist() == [[math.inf, 2.0]]
