"""Accuracy, calibration, intervals, ensembles: laws of the figures that everything else is judged by."""

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.tasks import Task
from weightflow.evaluation.calibration import calibration_error
from weightflow.evaluation.chance import chance, chances
from weightflow.evaluation.evaluate import Spread, evaluate_ensembles, evaluate_networks
from weightflow.evaluation.interval import interval
from weightflow.evaluation.population import evaluate_zoo
from weightflow.networks.architectures import Architecture
from weightflow.zoo.store import Zoo, write_zoo

SKEWED = torch.distributions.Beta(torch.tensor(50.0), torch.tensor(1.5))  # accuracies near one


@pytest.mark.parametrize(
    ("draw", "mean", "least"),
    [
        (torch.randn, 0.0, {3: 0.93, 5: 0.93, 8: 0.93, 60: 0.93}),
        (SKEWED.sample, 50 / 51.5, {3: 0.88, 5: 0.92, 8: 0.93, 16: 0.93, 60: 0.935}),
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(draw, mean, least):
    """95 % of normal samples of any size; skewed ones come near. Student's t alone has 0.91 of these at eight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for n, share in least.items():
            found = [interval(draw((n,))) for _ in range(1500)]
            assert share <= sum(f.low <= mean <= f.high for f in found) / 1500 <= 0.97, n


def test_an_interval_needs_two_values_and_stays_within_bounds():
    assert interval(torch.tensor([0.5])).ends() is None
    assert interval(torch.tensor([0.5, 0.5])).ends() == [0.5, 0.5]
    assert Spread.of(torch.tensor([0.9, 1.0])).interval[1] == 1
    assert Spread.of(torch.tensor([0.0, 0.1]), -1.0).interval[0] < 0


def test_calibration_error_is_the_gap_between_sure_and_right():
    confidence = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.75, 0.75, 0.75, 0.75]])
    correct = torch.tensor([[True, True, False, False], [True, True, True, False]])
    counted = torch.ones_like(correct)
    assert calibration_error(confidence, correct, counted).tolist() == pytest.approx([0.5, 0.0])
    counted[0, 2:] = False
    assert float(calibration_error(confidence, correct, counted)[0]) == 0.0


def test_classes_weighed_by_their_examples_make_the_accuracy(context):
    names = datasets.load("digits").class_names
    task, state = (
        Task("digits", ("one", "two", "three")),
        {n: t[:1] for n, t in context.picked(range(len(context.rows))).items()},
    )
    predictions = evaluate_networks(context.zoo.architecture, state, [task])
    by_class = predictions.by_class(names)
    assert by_class.keys() == set(task.classes)
    shares = [
        (predictions.labels == names.index(name)).sum() / predictions.counted.sum() for name in task.classes
    ]
    total = sum(float(s) * by_class[name] for s, name in zip(shares, task.classes, strict=True))
    assert total == pytest.approx(float(predictions.accuracy[0]), abs=1e-5)


def test_an_ensemble_of_one_is_the_network_and_copies_add_nothing(context):
    task = context.tasks[0]
    copies = {
        name: tensor[:1].expand(3, *tensor.shape[1:])
        for name, tensor in context.picked(range(len(context.rows))).items()
    }
    alone = float(evaluate_networks(context.zoo.architecture, copies, [task] * 3).accuracy[0])
    found = evaluate_ensembles(context.zoo.architecture, copies, task, [1, 3, 10])
    assert found == pytest.approx({1: alone, 3: alone})


def test_a_zoo_is_told_by_split_class_and_prompt(zoo):
    found = evaluate_zoo(zoo)
    assert found["splits"].keys() == {"seen", "validation", "unseen_combinations"}
    assert sum(p["networks"] for p in found["prompts"]) == len(zoo)
    low, high = found["zoo"]["accuracy"]["interval"]
    assert low <= found["zoo"]["accuracy"]["mean"] <= high
    assert 0 <= found["zoo"]["calibration_error"]["mean"] <= 1


def test_an_empty_population_is_named(zoo, tmp_path):
    header = {"architecture": zoo.architecture.to_dict(), "dataset": "digits"}
    (tmp_path / "empty").mkdir()
    write_zoo(tmp_path / "empty", header, {}, [])
    with pytest.raises(InputError, match="holds no network"):
        evaluate_zoo(Zoo(tmp_path / "empty"))


def test_chance_is_the_share_of_the_largest_class():
    task = Task("digits", ("one", "two"))
    labels = datasets.load("digits").test.open_for_evaluation().labels
    counts = [int((labels == label).sum()) for label in (1, 2)]
    assert chances([task]) == [pytest.approx(max(counts) / sum(counts))]
    assert chance([task, Task("digits", ("one", "two", "three"))]) < chance([task])


def test_unbalanced_classes_have_a_balanced_accuracy_beside_accuracy(tmp_path):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(400, 4)).astype("float32"), np.array([0] * 360 + [1] * 40)
    np.savez(tmp_path / "u.npz", inputs=inputs, labels=labels, class_names=["many", "few"])
    task = Task(f"npz:{tmp_path / 'u.npz'}", ("many", "few"))
    architecture = Architecture("linear_head", {"inputs": 4}, (4,), 2)
    always = {n: torch.zeros(1, *shape) for n, shape in architecture.shapes.items()}
    bias = next(n for n in always if n.endswith("bias"))
    always[bias][0] = torch.tensor([1.0, 0.0])  # it answers "many" whatever it sees
    predictions = evaluate_networks(architecture, always, [task])
    (share,) = chances([task])
    assert share == pytest.approx(0.9, abs=0.04)
    assert float(predictions.accuracy) == pytest.approx(share)
    assert float(predictions.balanced_accuracy) == pytest.approx(0.5)


def test_a_stopped_evaluation_says_how_many_networks_its_figures_are_of(zoo, monkeypatch):
    monkeypatch.setattr("weightflow.evaluation.population.networks_per_group", lambda architecture: 16)
    done = []
    found = evaluate_zoo(zoo, done.append, lambda: len(done) == 2)
    assert (found["judged"], found["networks"]) == (sum(done), len(zoo))
    assert found["judged"] < len(zoo)
    whole = evaluate_zoo(zoo)
    assert whole["judged"] == len(zoo)
    assert found["prompts"][0]["mean"] == pytest.approx(whole["prompts"][0]["mean"])


def test_the_interval_of_symmetric_values_is_students():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    half = 2.570581835636314 * float(values.std()) / 6**0.5
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((3.5 - half, 3.5 + half))


def test_the_interval_of_skewed_values_reaches_further_where_their_tail_is():
    values = torch.tensor([0.99, 0.98, 0.99, 0.97, 0.99, 0.80])
    found, mirrored = interval(values), interval(-values)
    assert found.mean - found.low > 1.5 * (found.high - found.mean)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    scaled = interval(100 * values + 3)
    assert (scaled.low, scaled.high) == pytest.approx((100 * found.low + 3, 100 * found.high + 3))
