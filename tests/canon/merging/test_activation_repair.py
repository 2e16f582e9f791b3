"""Statistics after a merge are those of the merged network, or of the networks that were merged."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from canon.errors import InputError
from canon.io.examples import Data
from canon.merging.activation_repair import reestimate_batch_norm, repair, repairer
from canon.merging.interpolation import curve, merge


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(64, 4, generator=generator) for _ in range(3)]
    return lambda: data


def plain(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def normed(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


def outputs(module, state, layer, inputs):
    module.load_state_dict(state)
    return module.eval()[: layer + 1](torch.cat(list(inputs())).to(state["0.weight"].dtype))


def test_batch_norm_gets_the_statistics_of_its_inputs(inputs):
    module = normed(0)
    state = module.state_dict()
    found = reestimate_batch_norm(module, state, inputs)
    before = [module.eval()[0](x) for x in inputs()]
    mean = torch.stack([b.mean(0) for b in before]).mean(0)
    variance = torch.stack([b.var(0) for b in before]).mean(0)
    assert torch.allclose(found["1.running_mean"], mean, atol=1e-6)
    assert torch.allclose(found["1.running_var"], variance, atol=1e-6)
    assert torch.equal(found["0.weight"], state["0.weight"])
    assert list(found) == list(state)


def test_the_given_network_is_left_alone(inputs):
    module = normed(0).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    reestimate_batch_norm(module, module.state_dict(), inputs)
    repair(module, module.state_dict(), [before, before], [0.5, 0.5], inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training


def test_without_batch_norm_nothing_changes(inputs):
    state = plain(0).float().state_dict()
    found = reestimate_batch_norm(plain(0).float(), state, inputs)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_repaired_units_have_the_mean_statistics(inputs):
    double = lambda: [x.double() for x in inputs()]  # noqa: E731
    module, a, b = plain(0), plain(1).state_dict(), plain(2).state_dict()
    mean = merge([a, b], [0.25, 0.75])
    repaired = repair(module, mean, [a, b], [0.25, 0.75], double)
    for layer in (0, 2):
        at_a, at_b, found = (outputs(module, state, layer, double) for state in (a, b, repaired))
        assert torch.allclose(found.mean(0), 0.25 * at_a.mean(0) + 0.75 * at_b.mean(0), atol=0.02)
        goal = 0.25 * at_a.std(0) + 0.75 * at_b.std(0)
        assert torch.allclose(found.std(0), goal, rtol=0.15)
        merged_off = (outputs(module, mean, layer, double).std(0) / goal - 1).abs().mean()
        assert (found.std(0) / goal - 1).abs().mean() < 0.3 * merged_off
    assert torch.equal(repaired["4.weight"], mean["4.weight"])


def test_repair_of_a_network_with_itself_changes_nothing(inputs):
    state = plain(1).state_dict()
    repaired = repair(plain(0), state, [state], [1.0], lambda: [torch.cat(list(inputs())).double()])
    assert all(torch.allclose(repaired[name], state[name], atol=1e-9) for name in state)


def test_dead_units_are_left_finite(inputs):
    module = plain(0).float()
    state = module.state_dict()
    dead = {name: tensor.clone() for name, tensor in state.items()}
    dead["0.weight"][0] = 0
    repaired = repair(module, dead, [state, dead], [0.5, 0.5], inputs)
    assert all(tensor.isfinite().all() for tensor in repaired.values())


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="no examples"):
        reestimate_batch_norm(normed(0), normed(0).state_dict(), lambda: [])


@pytest.mark.slow
def test_repair_lowers_the_barrier_of_trained_networks():
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    trained = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        for rows in torch.arange(len(x)).repeat(20).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
        trained.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    mend = repairer("repair", module, Data(x[:1000]), 250)

    def barrier(between):
        return curve(module, *trained, lambda: [(x, y)], points=5, repair=between).loss_barrier

    assert barrier(lambda state, weight: mend(state, trained, (1 - weight, weight))) < 0.6 * barrier(None)
