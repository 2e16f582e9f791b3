"""Rows get the length that they had; nothing else changes."""

import torch

from canon.merging.interpolation import merge
from canon.merging.weight_norms import restore_norms


def states(*seeds):
    def one(seed):
        generator = torch.Generator().manual_seed(seed)
        shapes = {"weight": (4, 5), "bias": (4,), "kernel": (3, 2, 3, 3)}
        drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        return drawn | {"count": torch.tensor(seed)}

    return [one(seed) for seed in seeds]


def test_rows_are_as_long_as_on_average_and_point_as_the_mean_does():
    sources, weights = states(0, 1, 2), [0.5, 0.3, 0.2]
    mean = merge(sources, weights)
    found = restore_norms(mean, sources, weights)
    for name in ("weight", "kernel"):
        rows, old = found[name].flatten(1), mean[name].flatten(1)
        wanted = sum(w * s[name].flatten(1).norm(dim=1) for w, s in zip(weights, sources, strict=True))
        torch.testing.assert_close(rows.norm(dim=1), wanted)
        torch.testing.assert_close(torch.cosine_similarity(rows, old), torch.ones(len(rows)))
    assert all(torch.equal(found[name], mean[name]) for name in ("bias", "count"))


def test_equal_networks_and_dead_units_stay():
    (network,) = states(3)
    network["weight"][2] = 0
    found = restore_norms(network, [network, network], [0.5, 0.5])
    assert all(torch.equal(found[name], network[name]) for name in network)
