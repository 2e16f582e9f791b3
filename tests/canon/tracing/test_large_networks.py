"""Large networks, whose tensors are made when they are wanted: every result is that of small ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import canon
from canon.actions import canonical_form
from canon.api.networks import LargeWeights
from canon.io import checkpoint
from canon.merging import weight_norms
from canon.models import loading
from canon.models.unfilled import needs_only_parameters, parameters_on_meta
from canon.spec import Axis, Group, PermutationSpec
from canon.tracing import exported_graph, streaming


class Block(nn.Module):
    """A residual block with a tied table: the output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        found: torch.Tensor = self.out(x + self.down(torch.relu(self.up(x))))
        return found


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )


CASES = {
    "block": (Block, torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))),
    "convolutions": (convolutions, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
}


def build(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CASES[kind][0]()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported_graph, "LARGE", 0)
    monkeypatch.setattr(loading, "LARGE", 0)
    monkeypatch.setattr(streaming, "SMALL", 0)
    monkeypatch.setattr(streaming, "TRIM", 64)
    monkeypatch.setattr(canonical_form, "KEPT", 0)
    monkeypatch.setattr(canonical_form, "SORTED", 64)
    monkeypatch.setattr(canonical_form, "FEW", 0)
    monkeypatch.setattr(weight_norms, "PIECE", 8)


@pytest.mark.parametrize("kind", CASES)
def test_the_symmetries_of_a_large_network_are_those_of_a_small_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    small = canon.trace(build(kind, 0), CASES[kind][1])
    request.getfixturevalue("large")
    assert canon.trace(build(kind, 0), CASES[kind][1]) == small
    assert small.groups


@pytest.mark.usefixtures("large")
def test_a_wrong_group_of_a_large_network_is_found_beside_right_ones() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7))
    right = canon.trace(net, torch.randn(1, 3))
    moved = {name: list(axes) for name, axes in right.axes.items()}
    moved["4.bias"] = [Axis.units("wrong", 7)]
    groups = right.groups | {"wrong": Group("wrong", 7)}
    spec = PermutationSpec(groups, {name: tuple(axes) for name, axes in moved.items()})
    check = canon.check_groups(net, torch.randn(1, 3), spec)
    assert set(check.failed) == {"wrong"}
    assert set(check.spec.groups) == set(right.groups)


@pytest.mark.usefixtures("large")
def test_a_group_that_the_outputs_do_not_depend_on_is_frozen() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.two(self.one(x).tanh()) * 0.0 + x[:, :2]
            return found

    spec = canon.trace(Silent(), torch.randn(2, 3))
    assert not spec.groups
    assert any("could not exercise" in reason for reason in spec.frozen.values())


COMMANDS: dict[str, Callable[..., Any]] = {
    "align": canon.align,
    "align in balanced scales": partial(canon.align, balance=True),
    "merge": canon.merge,
    "merge and restore norms": partial(canon.merge, repair="norms"),
    "canonicalize": lambda a, b, **code: canon.canonicalize(b, **code),
    "balance": lambda a, b, **code: canon.balance(b, **code),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", CASES)
def test_what_is_written_is_the_same_bytes(
    kind: str, command: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for seed, name in ((0, "a"), (1, "b")):
        torch.save(build(kind, seed).state_dict(), tmp_path / f"{name}.pt")
        state = {k: v.clone() for k, v in build(kind, seed).state_dict().items()}
        checkpoint.write(tmp_path / f"{name}.safetensors", state)

    def made(suffix: str) -> Any:
        files = [tmp_path / f"{name}{suffix}" for name in "ab"]
        return COMMANDS[command](*files, model=lambda: build(kind, 3), example_inputs=CASES[kind][1])

    made(".safetensors").save(tmp_path / "small.safetensors")
    tied = made(".pt")
    request.getfixturevalue("large")
    found = made(".safetensors")
    assert isinstance(found, LargeWeights)
    found.save(tmp_path / "large.safetensors")
    one, other = (load_file(tmp_path / f"{size}.safetensors") for size in ("small", "large"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "small.safetensors").read_bytes() == (tmp_path / "large.safetensors").read_bytes()
    again = made(".pt")
    assert all(torch.equal(tied[name], again[name]) for name in tied)
    assert {k: found.report[k] for k in ("assumptions",)} == {"assumptions": []}
    json.dumps(found.report)


@pytest.mark.parametrize("repair", ["batch-norm", "repair"])
def test_a_large_network_is_repaired_like_a_small_one(
    repair: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    examples = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for seed, name in ((0, "a"), (1, "b")):
        checkpoint.write(tmp_path / f"{name}.safetensors", build("convolutions", seed).state_dict())
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]

    def merged() -> Any:
        code = {"model": convolutions, "example_inputs": examples[:2]}
        return canon.merge(files, repair=repair, train=examples, **code)

    merged().save(tmp_path / "small.safetensors")
    request.getfixturevalue("large")
    found = merged()
    assert isinstance(found, LargeWeights)
    found.save(tmp_path / "large.safetensors")
    one, other = (load_file(tmp_path / f"{size}.safetensors") for size in ("small", "large"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    mean = canon.merge(files, model=convolutions, example_inputs=examples[:2])
    assert not torch.equal(mean["1.running_mean"], one["1.running_mean"])


def test_parameters_are_built_without_memory_and_buffers_with() -> None:
    with parameters_on_meta():
        made = Block()
        norm = nn.BatchNorm1d(3)
    assert all(p.is_meta for p in made.parameters())
    assert made.out.weight is made.words.weight
    assert not any(b.is_meta for b in norm.buffers())
    assert needs_only_parameters(norm)
    assert not next(nn.Linear(2, 2).parameters()).is_meta


@pytest.mark.usefixtures("large")
def test_a_builder_that_needs_its_numbers_gets_them() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 2)
            self.register_buffer("size", self.inner.weight.detach().norm(), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.outer(self.inner(x).relu()) * self.size
            return found

    def asks() -> nn.Module:
        made = Computed()
        assert made.inner.weight.abs().max().item() > 0
        return made

    a, b = Computed().state_dict(), Computed().state_dict()
    for builder in (Computed, asks):
        report = canon.align(a, b, model=builder, example_inputs=torch.randn(1, 3)).report
        assert report["verified"]
        assert report["groups"]
