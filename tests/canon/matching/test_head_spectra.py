"""Heads matched by singular values: planted orders come back, and equal spectra say nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.matching.head_spectra import match_heads
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Factor, Group, PermutationSpec
from tests.canon.examples import noisy, transformer_stack, weights

SPEC = transformer_stack(width=32, heads=4, blocks=2, tokens=40)
kv, q, qk, vo = Factor(3, "kv"), Factor(2, "q"), Factor(4, "qk"), Factor(5, "vo")
GROUPED = PermutationSpec(
    {name: Group(name, size, "kv" if name != "kv" else None) for name, size in (("kv", 3), ("q", 2), ("qk", 4), ("vo", 5))},
    {
        "query": (Axis(((kv, q, qk),)), Axis.fixed(20)),
        "key": (Axis(((kv, qk),)), Axis.fixed(20)),
        "value": (Axis(((kv, vo),)), Axis.fixed(20)),
        "out": (Axis.fixed(20), Axis(((kv, q, vo),))),
    },
)  # fmt: skip


def planted(spec: PermutationSpec, seed: int, noise: float) -> tuple[dict[str, Tensor], dict[str, Tensor], perm.Permutation]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    reference, p = weights(spec, generator), perm.random(spec, generator)
    return reference, noisy(perm.apply(spec, p, reference), noise, generator), perm.invert(spec, p)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("spec", [SPEC, GROUPED], ids=["fused", "grouped queries"])
@pytest.mark.parametrize("start", ["auto", "identity", "anchored", "signatures"])
def test_planted_heads_come_back(spec: PermutationSpec, noise: float, start: str) -> None:
    reference, network, wanted = planted(spec, 0, noise)
    match = match_weights(spec, reference, network, start=start, heads="spectra")
    outers = {group.within for group in spec.groups.values()} - {None}
    assert all(torch.equal(match.permutation[name], wanted[name]) for name in outers)
    if start == "auto":
        assert all(torch.equal(match.permutation[name], p) for name, p in wanted.items())


def test_many_networks_equal_one_at_a_time() -> None:
    reference, one, _ = planted(SPEC, 0, 0.1)
    other = planted(SPEC, 1, 0.0)[1]
    stacked = {name: torch.stack([one[name], other[name]]) for name in one}
    both = match_weights(SPEC, reference, stacked, heads="spectra")
    for row, network in enumerate((one, other)):
        alone = match_weights(SPEC, reference, network, heads="spectra")
        assert all(torch.equal(p[row], alone.permutation[name]) for name, p in both.permutation.items())


def test_spectra_do_not_depend_on_the_arrangement() -> None:
    reference, network, _ = planted(SPEC, 0, 1.0)
    generator = torch.Generator().manual_seed(5)
    p = perm.random(SPEC, generator)
    batch = [
        {name: t[None] for name, t in s.items()} for s in (reference, network, perm.apply(SPEC, p, network))
    ]
    here, there = (match_heads(SPEC, batch[0], other) for other in batch[1:])
    inverse = perm.invert(SPEC, p)
    for name, heads in here.items():
        assert torch.equal(there[name][0], inverse[name][heads[0]])


def test_equal_spectra_say_nothing_and_pairs_still_tell() -> None:
    """Where every head is orthogonal, comparing the heads in full finds their order; their spectra cannot."""
    reference, _, _ = planted(SPEC, 0, 0.0)
    generator = torch.Generator().manual_seed(3)
    for name in reference:
        if name.endswith("qkv"):
            parts = [torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q for _ in range(3)]
            reference[name] = torch.cat(parts)
        elif name.endswith("out"):
            reference[name] = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    p = perm.random(SPEC, torch.Generator().manual_seed(1))
    # Without noise the rounding of equal spectra would tell heads apart.
    network = noisy(perm.apply(SPEC, p, reference), 0.02, torch.Generator().manual_seed(2))
    wanted = perm.invert(SPEC, p)
    found = {heads: match_weights(SPEC, reference, network, heads=heads) for heads in ("pairs", "spectra")}
    assert all(torch.equal(found["pairs"].permutation[name], p) for name, p in wanted.items())
    assert found["spectra"].objective < found["pairs"].objective


def test_units_without_heads_are_matched_as_ever() -> None:
    groups = {name: Group(name, 6) for name in "abc"}
    axes = {f"{x}{y}": (Axis.units(y, 6), Axis.units(x, 6)) for x, y in pairwise("abc")}
    axes["in"] = (Axis.units("a", 6), Axis.fixed(4))
    spec = PermutationSpec(groups, axes)
    reference, network, _ = planted(spec, 0, 0.5)
    one, other = (match_weights(spec, reference, network, heads=heads) for heads in ("pairs", "spectra"))
    assert one.objective == other.objective


def test_what_does_not_go_together_is_refused() -> None:
    reference, network, _ = planted(GROUPED, 0, 0.0)
    with pytest.raises(InputError, match="choose pairs or spectra"):
        match_weights(GROUPED, reference, network, heads="both")
    with pytest.raises(InputError, match="choose another start"):
        match_weights(GROUPED, reference, network, heads="spectra", start="frank_wolfe")
