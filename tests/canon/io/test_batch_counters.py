"""Files from before batch norms counted their batches meet files that have the counters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import canon

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    made(torch.randn(16, 3))
    return made.eval()


def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("old_a", [True, False])
@pytest.mark.parametrize("old_b", [True, False])
def test_align_keeps_the_keys_of_b(old_a: bool, old_b: bool) -> None:
    a, b = network(0).state_dict(), network(1).state_dict()
    given = old(b) if old_b else b
    aligned = canon.align(old(a) if old_a else a, given, model=lambda: network(2))
    assert list(aligned) == list(given)
    assert aligned.report["verified"]
    made = network(2)
    made.load_state_dict(aligned, strict=not old_b)
    assert torch.allclose(made(X), network(1)(X), atol=1e-6)


@pytest.mark.parametrize("old_first", [True, False])
def test_merge_and_verify_take_both(old_first: bool) -> None:
    a, b = network(0).state_dict(), network(1).state_dict()
    a, b = (old(a), b) if old_first else (a, old(b))
    assert list(canon.merge([a, b], model=lambda: network(2))) == list(a)
    assert canon.equivalent(a, b, model=lambda: network(2)).same is False
    assert canon.equivalent(a, old(a), model=lambda: network(2)).same
