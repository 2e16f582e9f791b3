"""The straight line, its barrier and means, on networks whose answers are known."""

import pytest
import torch
from torch import nn

from canon.errors import InputError
from canon.merging import interpolation, plotting
from canon.merging.interpolation import Curve, Score


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(generator, count=3):
    data = [
        (torch.randn(5, 4, generator=generator), torch.randint(3, (5,), generator=generator))
        for _ in range(count)
    ]
    return lambda: data


def test_the_ends_are_exact():
    a, b = net(0).state_dict(), net(1).state_dict()
    assert all(torch.equal(interpolation.lerp(a, b, 0)[k], a[k]) for k in a)
    assert all(torch.equal(interpolation.lerp(a, b, 1)[k], b[k]) for k in a)


def test_a_merge_is_the_weighted_mean_in_float64():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([5.0, 0.0]), "n": torch.tensor(9)},
    ]
    merged = interpolation.merge(states, [1, 3])
    assert torch.equal(merged["w"], torch.tensor([4.0, 0.5]))
    assert merged["n"] == 3
    halves = [{"w": torch.tensor([60000.0]).half()}] * 4
    assert torch.equal(interpolation.merge(halves)["w"], halves[0]["w"])


@pytest.mark.parametrize(
    ("weights", "message"), [([1.0], "2 networks and 1 weights"), ([1.0, -1.0], "add up to 0")]
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        interpolation.merge([{}, {}], weights)


def test_barriers_by_hand():
    found = Curve((0.0, 0.5, 1.0), (Score(1.0, 0.9), Score(4.0, 0.5), Score(2.0, 0.7)))
    assert found.loss_barrier == pytest.approx(4.0 - 1.5)
    assert found.accuracy_barrier == pytest.approx(0.8 - 0.5)


def test_no_barrier_is_zero():
    found = Curve((0.0, 0.5, 1.0), (Score(1.0, 0.5), Score(0.1, 0.9), Score(1.0, 0.5)))
    assert found.loss_barrier == found.accuracy_barrier == 0


def test_scores_are_those_of_the_networks(generator):
    a, b, data = net(0), net(1), batches(generator)
    found = interpolation.curve(a, a.state_dict(), b.state_dict(), data, points=5)
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    for module, score in ((a, found.scores[0]), (b, found.scores[-1])):
        assert score.loss == pytest.approx(nn.functional.cross_entropy(module(x), y).item(), rel=1e-5)
        assert score.accuracy == pytest.approx((module(x).argmax(1) == y).double().mean().item())
    assert found.weights == (0, 0.25, 0.5, 0.75, 1)


def test_a_relabelled_copy_has_a_barrier_and_an_aligned_one_has_none(generator):
    module, data = net(0), batches(generator)
    a, order = module.state_dict(), torch.randperm(8, generator=generator)
    b = a | {
        "0.weight": a["0.weight"][order],
        "0.bias": a["0.bias"][order],
        "2.weight": a["2.weight"][:, order],
    }
    crossed = interpolation.curve(module, a, b, data)
    straight = interpolation.curve(module, a, dict(a), data)
    assert crossed.scores[0].loss == pytest.approx(crossed.scores[-1].loss)
    assert straight.loss_barrier == pytest.approx(0, abs=1e-12)
    assert max(abs(s.loss - crossed.scores[0].loss) for s in crossed.scores) > 1e-3


def test_repair_is_asked_between_the_ends_only(generator):
    asked = []

    def repair(state, weight):
        asked.append(weight)
        return state

    a, b = net(0), net(1)
    interpolation.curve(a, a.state_dict(), b.state_dict(), batches(generator), points=4, repair=repair)
    assert asked == pytest.approx([1 / 3, 2 / 3])


def test_what_is_no_classifier_is_refused(generator):
    module = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)))
    with pytest.raises(InputError, match=r"returned shape \(5, 2, 4\); expected logits"):
        interpolation.evaluate(module, module.state_dict(), batches(generator)())
    with pytest.raises(InputError, match="3 points or more"):
        interpolation.curve(module, {}, {}, batches(generator), points=2)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_picture_is_a_picture(tmp_path, suffix, magic):
    found = Curve((0.0, 0.5, 1.0), (Score(1.0, 0.9), Score(4.0, 0.5), Score(2.0, 0.7)))
    plotting.save_plot({"unaligned": found, "aligned": found}, tmp_path / f"p.{suffix}")
    assert (tmp_path / f"p.{suffix}").read_bytes().startswith(magic)
    with pytest.raises(InputError, match=r"ends in \.png"):
        plotting.save_plot({"x": found}, tmp_path / "p.txt")
