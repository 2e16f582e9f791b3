"""Planted permutations are recovered; gains are real; many networks equal one at a time."""

import pytest
import torch

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.matching.initialization import STARTS
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Factor, Group, PermutationSpec
from tests.canon.examples import mlp, noisy, residual_stack, transformer_stack, weights


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def objective(a, b, spec):
    return sum((a[n].double() * b[n].double()).sum() for n in a if n not in spec.statistics)


def same(p, q):
    return all(torch.equal(p[name], q[name]) for name in q)


def planted(spec, generator, noise=0.0):
    """A reference, a relabelled and noisy copy, and the permutation that brings it back."""
    reference, p = weights(spec, generator), perm.random(spec, generator)
    return reference, noisy(perm.apply(spec, p, reference), noise, generator), perm.invert(spec, p)


@pytest.mark.parametrize("start", ["identity", "anchored", "frank_wolfe", "auto"])
def test_mlp_with_noise_twice_the_signal(generator, start):
    spec = mlp(300, 200, 20, 10)
    reference, network, wanted = planted(spec, generator, noise=2.0)
    match = match_weights(spec, reference, network, start=start)
    assert same(match.permutation, wanted)
    assert match.converged


@pytest.mark.parametrize("seed", range(5))
def test_residual_stack_without_an_anchor(seed):
    spec = residual_stack(30, 50, blocks=2)
    reference, network, wanted = planted(spec, torch.Generator().manual_seed(seed))
    assert same(match_weights(spec, reference, network).permutation, wanted)


def test_transformer_stack_with_noise_as_large_as_the_signal(generator):
    spec = transformer_stack(width=32, heads=4, blocks=2, tokens=40)
    reference, network, wanted = planted(spec, generator, noise=1.0)
    assert same(match_weights(spec, reference, network).permutation, wanted)


def test_grouped_queries_and_channels_in_one_tensor(generator):
    groups = {
        "kv": Group("kv", 3),
        "q": Group("q", 2, "kv"),
        "qk": Group("qk", 4, "kv"),
        "vo": Group("vo", 5, "kv"),
    }
    kv, q, qk, vo = (Factor(g.size, g.name) for g in groups.values())
    stream = Axis.fixed(20)
    spec = PermutationSpec(
        groups,
        {
            "query": (Axis(((kv, q, qk),)), stream),
            "key": (Axis(((kv, qk),)), stream),
            "value": (Axis(((kv, vo),)), stream),
            "out": (stream, Axis(((kv, q, vo),))),
        },
    )
    reference, network, wanted = planted(spec, generator, noise=0.2)
    assert same(match_weights(spec, reference, network).permutation, wanted)


def test_one_group_on_two_axes_of_a_tensor(generator):
    spec = PermutationSpec(
        {"u": Group("u", 12)},
        {"square": (Axis.units("u", 12), Axis.units("u", 12)), "bias": (Axis.units("u", 12),)},
    )
    reference, network, wanted = planted(spec, generator, noise=0.1)
    match = match_weights(spec, reference, network)
    assert same(match.permutation, wanted)
    moved = perm.apply(spec, match.permutation, network)
    torch.testing.assert_close(match.objective, objective(reference, moved, spec))


@pytest.mark.parametrize("start", ["identity", "anchored", "auto"])
def test_objectives_are_what_they_say_and_gains_add_up(generator, start):
    spec = residual_stack(8, 10, blocks=2)
    reference, network = weights(spec, generator), weights(spec, generator)
    match = match_weights(spec, reference, network, start=start)
    torch.testing.assert_close(match.objective_before, objective(reference, network, spec))
    moved = perm.apply(spec, match.permutation, network)
    torch.testing.assert_close(match.objective, objective(reference, moved, spec))
    assert match.objective > match.objective_before
    assert sum(match.gains.values()) == pytest.approx(float(match.objective - match.objective_before))


@pytest.mark.parametrize("start", ["identity", "anchored", "signatures", "frank_wolfe", "auto"])
def test_many_equal_one_at_a_time(generator, start):
    spec = residual_stack(6, 9, blocks=2)
    reference, networks = weights(spec, generator), weights(spec, generator, 7)
    together = match_weights(spec, reference, networks, start=start)
    for row in range(7):
        alone = match_weights(spec, reference, {n: t[row] for n, t in networks.items()}, start=start)
        assert same({n: p[row] for n, p in together.permutation.items()}, alone.permutation)
        torch.testing.assert_close(together.objective[row], alone.objective)


def test_one_reference_for_each_network(generator):
    spec = mlp(9, 8, 7, 4)
    reference, p = weights(spec, generator, 5), perm.random(spec, generator, (5,))
    match = match_weights(spec, reference, perm.apply(spec, p, reference))
    assert same(match.permutation, perm.invert(spec, p))


def test_nothing_moves_between_a_network_and_itself(generator):
    spec = transformer_stack(width=8, heads=2, blocks=1, tokens=6)
    network = weights(spec, generator)
    match = match_weights(spec, network, network)
    assert set(match.moved.values()) == {0.0}
    assert match.objective == match.objective_before


def test_statistics_move_and_do_not_vote(generator):
    spec = mlp(6, 5, 3)
    spec = PermutationSpec(
        spec.groups, {**spec.axes, "mean": (Axis.units("h1", 5),)}, statistics=frozenset({"mean"})
    )
    reference, network, wanted = planted(spec, generator)
    network["mean"] = 1e6 * torch.randn(5, generator=generator, dtype=torch.float64)
    assert same(match_weights(spec, reference, network).permutation, wanted)


def test_networks_may_differ_from_the_reference_in_dtype(generator):
    spec = mlp(20, 10, 5)
    reference, network, wanted = planted(spec, generator)
    half = {name: t.to(torch.bfloat16) for name, t in network.items()}
    assert same(match_weights(spec, reference, half).permutation, wanted)


def test_too_few_sweeps_are_reported(generator):
    spec = residual_stack(12, 20, blocks=2)
    match = match_weights(
        spec, weights(spec, generator), weights(spec, generator), start="identity", sweeps=1
    )
    assert match.sweeps == 1
    assert not match.converged


def test_unknown_start_lists_the_known(generator):
    spec = mlp(3, 3, 3)
    state = weights(spec, generator)
    with pytest.raises(InputError, match="'magic' is not known; choose auto, identity, anchored"):
        match_weights(spec, state, state, start="magic")


def test_not_a_number_names_the_tensor(generator):
    spec = mlp(3, 3, 3)
    state = weights(spec, generator)
    bad = {**state, "layers.2.bias": torch.full((3,), float("nan"))}
    with pytest.raises(InputError, match=r"networks: layers\.2\.bias holds NaN"):
        match_weights(spec, state, bad)


@pytest.mark.parametrize("start", STARTS)
def test_every_start_takes_a_network_in_which_nothing_can_move(start, generator):
    spec = PermutationSpec({}, {"weight": (Axis.fixed(3), Axis.fixed(4))})
    state = {"weight": torch.randn(3, 4, generator=generator)}
    assert match_weights(spec, state, state, start=start).converged


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "hidden", "cases"), [(30, 50, 100), (128, 256, 20)])
def test_every_planted_stack_is_recovered(stream, hidden, cases):
    spec = residual_stack(stream, hidden, blocks=2)
    for seed in range(cases):
        reference, network, wanted = planted(spec, torch.Generator().manual_seed(seed))
        assert same(match_weights(spec, reference, network).permutation, wanted)


@pytest.mark.slow
def test_wide_transformer_stack_with_noise_as_large_as_the_signal(generator):
    spec = transformer_stack(width=128, heads=4, blocks=6, tokens=256)
    reference, network, wanted = planted(spec, generator, noise=1.0)
    assert same(match_weights(spec, reference, network).permutation, wanted)
