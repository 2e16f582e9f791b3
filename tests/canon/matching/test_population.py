"""Many networks in one frame."""

import pytest
import torch

from canon.actions import permutation as perm
from canon.actions import scaling
from canon.errors import InputError
from canon.matching import population
from tests.canon.examples import mlp, noisy, run_mlp, weights

SPEC = mlp(12, 10, 9, 4)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def scattered(generator, count=8, noise=0.1):
    """Noisy copies of one network, each relabelled and rescaled at random."""
    common = weights(SPEC, generator)
    stack = noisy({n: t.expand(count, *t.shape) for n, t in common.items()}, noise, generator)
    scales = {
        name: torch.randn(count, *SPEC.shape(name), generator=generator, dtype=torch.float64).exp()
        for name in SPEC.groups
    }
    stack = scaling.apply_scale(SPEC, scales, stack, stacked=True)
    return perm.apply(SPEC, perm.random(SPEC, generator, (count,)), stack)


def row(state, number):
    return {name: t[number] for name, t in state.items()}


def spread(state):
    return sum(float((t - t.mean(0)).square().sum()) for t in state.values())


def test_scattered_copies_come_together(generator):
    networks = scattered(generator, noise=0.0)
    aligned = population.align_many(SPEC, networks).state
    for tensor in aligned.values():
        torch.testing.assert_close(tensor, tensor[:1].expand_as(tensor), rtol=1e-9, atol=1e-9)


def test_functions_are_preserved(generator):
    networks = scattered(generator)
    aligned = population.align_many(SPEC, networks)
    x = torch.randn(8, 20, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(run_mlp(aligned.state, x), run_mlp(networks, x), rtol=1e-10, atol=1e-10)


def test_state_is_what_scales_and_permutation_make(generator):
    networks = scattered(generator)
    aligned = population.align_many(SPEC, networks)
    again = perm.apply(
        SPEC, aligned.permutation, scaling.apply_scale(SPEC, aligned.scales, networks, stacked=True)
    )
    assert all(torch.equal(again[name], aligned.state[name]) for name in networks)


def test_rounds_to_the_mean_draw_networks_together(generator):
    networks = weights(SPEC, generator, 10)
    first = population.align_many(SPEC, networks, reference="first")
    rounds = population.align_many(SPEC, networks, rounds=5)
    assert spread(rounds.state) < spread(first.state) < spread(networks)


def test_a_new_network_joins_the_frame(generator):
    networks = scattered(generator, count=9)
    old, new = {n: t[:8] for n, t in networks.items()}, row(networks, 8)
    aligned = population.align_many(SPEC, old)
    joined = population.align_to(SPEC, aligned.frame, new)
    centre = population.mean(aligned.state)
    distance = sum((joined.state[n] - centre[n]).square().sum() for n in centre)
    assert distance < 2 * spread(aligned.state) / 8


def test_cycles_between_networks_compose_to_the_identity(generator):
    networks = weights(SPEC, generator, 3)
    aligned = population.align_many(SPEC, networks)
    tour = perm.identity(SPEC)
    for source, target in ((0, 1), (1, 2), (2, 0)):
        tour = perm.compose(SPEC, tour, population.between(SPEC, aligned.permutation, source, target))
    assert all(torch.equal(tour[name], p) for name, p in perm.identity(SPEC).items())


def test_progress_is_told_after_every_round(generator):
    seen = []
    population.align_many(SPEC, weights(SPEC, generator, 4), rounds=2, progress=lambda *at: seen.append(at))
    assert seen[0] == (1, 3)


@pytest.mark.parametrize("wrong", [{}, {"other": torch.zeros(2)}])
def test_networks_and_frames_of_another_architecture_are_refused(generator, wrong):
    whole = weights(SPEC, generator)
    for frame, networks in ((whole, wrong), (wrong, whole)):
        with pytest.raises(InputError, match="do not fit the spec"):
            population.align_to(SPEC, frame, networks)
    with pytest.raises(InputError, match="do not fit the spec"):
        population.align_many(SPEC, wrong)
