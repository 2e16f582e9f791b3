"""The straight-through estimator never does worse than what it began from, and learns."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.matching.straight_through_estimator import straight_through
from canon.matching.weight_matching import match_weights
from tests.canon.examples import mlp

SPEC = mlp(4, 12, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"1": nn.Linear(4, 12), "2": nn.Linear(12, 3)})

    def forward(self, x):
        return self.layers["2"](self.layers["1"](x).relu())


def batches(generator):
    x = torch.randn(400, 4, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] * x[:, 3] > 0).long()
    return list(zip(x.split(100), y.split(100), strict=True))


def trained(seed, data):
    torch.manual_seed(seed)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(60):
        for x, y in data:
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.state_dict()


@pytest.fixture
def data():
    return batches(torch.Generator().manual_seed(0))


def midpoint(a, b, p, data):
    moved = perm.apply(SPEC, p, b)
    middle = {name: (a[name] + moved[name]) / 2 for name in a}
    with torch.no_grad():
        return sum(cross_entropy(functional_call(Net(), middle, (x,)), y) for x, y in data) / len(data)


def test_midpoint_is_better_than_weight_matching(data):
    a, b = trained(5, data), trained(6, data)
    match = straight_through(SPEC, Net(), a, b, data, epochs=30)
    by_weights = match_weights(SPEC, a, b)
    assert midpoint(a, b, match.permutation, data) < midpoint(a, b, by_weights.permutation, data)
    assert -float(match.objective) == pytest.approx(float(midpoint(a, b, match.permutation, data)), rel=1e-5)
    assert match.objective > match.objective_before


def test_a_relabelled_copy_needs_no_learning(data):
    a = trained(1, data)
    p = perm.random(SPEC, torch.Generator().manual_seed(0))
    match = straight_through(SPEC, Net(), a, perm.apply(SPEC, p, a), data, epochs=1)
    assert all(torch.equal(match.permutation[name], q) for name, q in perm.invert(SPEC, p).items())


def test_no_batches_are_refused():
    a = Net().state_dict()
    with pytest.raises(InputError, match="at least one batch"):
        straight_through(SPEC, Net(), a, a, [])
