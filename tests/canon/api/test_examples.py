"""Every form of examples is scored alike, and what is none is named."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import canon
from canon.errors import InputError


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval() for _ in "ab"]


X, Y = torch.randn(10, 4), torch.arange(10) % 3


@pytest.mark.parametrize(
    "form",
    [
        lambda path: (X, Y),
        lambda path: [X, Y],
        lambda path: (X.numpy(), Y.numpy().astype(np.uint8)),
        lambda path: DataLoader(TensorDataset(X, Y), 4),
        lambda path: TensorDataset(X, Y),
        lambda path: ((x[None], y[None]) for x, y in zip(X, Y, strict=True)),
        lambda path: [(X[:7], Y[:7]), (X[7:], Y[7:])],
        lambda path: str(path),
    ],
)
def test_examples_in_every_form_give_the_same_curve(networks, form, tmp_path):
    np.savez(tmp_path / "data.npz", x=X.numpy(), y=Y.numpy())
    data = form(tmp_path / "data.npz")
    found = canon.barrier(*networks, data, points=3)["unaligned"]
    expected = canon.barrier(*networks, (X, Y), points=3)["unaligned"]
    assert [s.loss for s in found.scores] == pytest.approx([s.loss for s in expected.scores])
    assert [s.accuracy for s in found.scores] == [s.accuracy for s in expected.scores]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda module: 0.0, "data is a function"),
        (3, "data is a int"),
        ((X, Y, Y), "tuple of 3 arrays"),
        ([], "data is a|data is empty|expected inputs"),
        ([(X, "a")], "batch 0 of data holds Tensor, str"),
        ([(X, Y), (X[:, :3], Y)], "differ in their shapes"),
        ((X, Y.float()), "class numbers are torch.float32"),
        ((X, Y[:4]), r"of shape \(4,\); expected whole numbers of shape \(10,\)"),
        ((X * float("nan"), Y), "NaN or infinity"),
        (torch.tensor(1.0), "a single number"),
    ],
)
def test_what_are_no_examples_is_named(networks, data, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(canon.barrier)(*networks, data)  # without the tests' check of annotations


def test_networks_of_a_merge_may_come_from_an_iterator(networks):
    merged = canon.merge(network for network in networks)
    assert torch.equal(merged[0].weight, canon.merge(networks)[0].weight)


@pytest.mark.parametrize("weight", [[0.0, 0.5], "half", None, float("nan"), True])
def test_a_weight_that_is_not_one_number_is_named(networks, weight):
    with pytest.raises(InputError, match="expected one finite number"):
        inspect.unwrap(canon.interpolate)(*networks, weight)
