"""Principal components: the span of the networks and nothing else, whichever way they are found."""

import weakref

import pytest
import torch

from canon.errors import InputError
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.batched.initialization import initialise
from weightflow.networks.architectures import Architecture
from weightflow.representation import CoordinatesConfig, fit, restore
from weightflow.representation.layout import make_layout

MLP = Architecture("mlp", {"inputs": 3, "hidden": [4]}, (3,), 3)
LAYOUT = make_layout(MLP, "rows")


def population(networks):
    present = torch.tensor([[True, True, True], [True, True, False]]).repeat(networks, 1)[:networks]
    return pad_with_zeros(MLP, initialise(MLP, range(networks)), present), present


def components(state, present, size=None, **settings):

    def batches(every=1):
        for rows in torch.arange(0, len(present), every).split(size or len(present)):
            yield {name: tensor[rows] for name, tensor in state.items()}, present[rows]

    return fit(CoordinatesConfig("components", **settings), MLP, LAYOUT, batches)


# fewer networks than the 31 entries go through the Gram matrix, more through the covariance
@pytest.mark.parametrize("networks", [9, 60])
def test_networks_of_the_population_come_back(networks):
    state, present = population(networks)
    found = components(state, present)
    z = found.encode(state, present)
    assert z.shape == (networks, 1, min(networks - 1, len(found.mean)))
    back = found.decode(z, present)
    assert list(back) == list(MLP.shapes)
    for name in state:
        torch.testing.assert_close(back[name], state[name], atol=1e-5, rtol=1e-4)


def test_components_have_no_mean_and_unit_spread_and_do_not_overlap():
    state, present = population(20)
    present = torch.ones_like(present)
    z = components(state, present).encode(state, present).squeeze(1)
    torch.testing.assert_close(z.mean(0), torch.zeros(19), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.T @ z / 20, torch.eye(19), atol=1e-3, rtol=0)


def test_unscaled_components_keep_distances():
    state, present = population(9)
    present = torch.ones_like(present)
    z = components(state, present, scaled=False).encode(state, present).squeeze(1)
    flat = torch.cat([t.flatten(1) for t in state.values()], dim=1)
    torch.testing.assert_close(torch.cdist(z, z), torch.cdist(flat, flat), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("networks", [9, 60])
def test_shards_do_not_matter(networks):
    state, present = population(networks)
    whole, parts = components(state, present), components(state, present, size=4)
    torch.testing.assert_close(whole.scale, parts.scale, atol=1e-5, rtol=1e-4)
    z = whole.encode(state, present)
    for name, tensor in whole.decode(z, present).items():
        torch.testing.assert_close(parts.decode(parts.encode(state, present), present)[name], tensor)


def test_of_many_networks_evenly_spaced_ones_decide_the_components(monkeypatch):
    state, present = population(30)
    present = torch.ones_like(present)
    monkeypatch.setattr("weightflow.representation.principal_components.MOST", 10)
    found, all_of_them = components(state, present, count=2), components(state, present)
    torch.testing.assert_close(found.mean, all_of_them.mean)
    few = {name: tensor[::3] for name, tensor in state.items()}
    flat = torch.cat([t.flatten(1) for t in few.values()], dim=1) - found.mean
    directions = torch.linalg.svd(flat, full_matrices=False).Vh[:2]
    torch.testing.assert_close((found.directions @ directions.T).abs(), torch.eye(2), atol=1e-4, rtol=0)


def test_the_first_components_say_most():
    state, present = population(20)
    present = torch.ones_like(present)
    found = components(state, present, count=3)
    assert found.scale.tolist() == sorted(found.scale.tolist(), reverse=True)
    outside = torch.cat([t.flatten(1) for t in state.values()], dim=1)
    inside = torch.cat(
        [t.flatten(1) for t in found.decode(found.encode(state, present), present).values()], dim=1
    )
    every = components(state, present).scale
    left = ((outside - inside) ** 2).sum(1).mean()
    assert float(left) == pytest.approx(float((every[3:] ** 2).sum()), rel=1e-3)


def test_a_checkpoint_restores_them():
    state, present = population(9)
    found = components(state, present)
    again = restore(CoordinatesConfig("components"), MLP, LAYOUT, found.tensors())
    assert torch.equal(again.encode(state, present), found.encode(state, present))
    assert again.layout == found.layout


def test_two_networks_span_too_little():
    with pytest.raises(InputError, match="three networks or more to be found from; there are 2"):
        components(*population(2))


def test_an_unknown_kind_lists_what_there_is():
    with pytest.raises(InputError, match="unknown kind of coordinates 'pca'; there are: components"):
        CoordinatesConfig("pca")


@pytest.mark.parametrize("networks", [12, 60])
def test_only_a_few_batches_are_in_memory_at_once(networks):
    """Six batches; one for each of two walks, and the one that is being read."""
    state, present = population(networks)
    alive: set[int] = set()
    most = 0

    def batches(every=1):
        nonlocal most
        for rows in torch.arange(networks).chunk(6):
            part = {name: tensor[rows] for name, tensor in state.items()}
            key = id(part["1.weight"])
            alive.add(key)
            weakref.finalize(part["1.weight"], alive.discard, key)
            most = max(most, len(alive))
            yield part, present[rows]
            del part

    fit(CoordinatesConfig("components"), MLP, LAYOUT, batches)
    assert most <= 3
