"""Mixtures of experts: experts change places with the router's rows, and units with those of every expert."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import canon

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 5},
    "Qwen2Moe": {"num_experts": 5, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 24},
    "Qwen3Moe": {"num_experts": 5, "moe_intermediate_size": 12, "head_dim": 8},
}
IDS = torch.randint(37, (1, 9), generator=torch.Generator().manual_seed(0))


def network(kind: str, way: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **KINDS[kind])
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    made.set_experts_implementation(way)
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return made


WAYS = ["eager", "grouped_mm", "batched_mm"]
FAST = {("Mixtral", "eager"), ("Qwen2Moe", "batched_mm"), ("Qwen3Moe", "grouped_mm")}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        pytest.param(kind, way, marks=[] if (kind, way) in FAST else pytest.mark.slow)
        for kind in KINDS
        for way in WAYS
    ],
)
def test_planted_orders_of_experts_and_units_come_back(kind: str, way: str) -> None:
    made = network(kind, way)
    spec = canon.trace(made, {"input_ids": IDS})
    layer = "model.layers.0.mlp"
    (router,) = spec.axes[f"{layer}.gate.weight"][0].groups
    for name in ("gate_up_proj", "down_proj"):
        assert spec.axes[f"{layer}.experts.{name}"][0].groups == {router}
        assert spec.axes[f"{layer}.experts.{name}"][1].groups
        assert spec.axes[f"{layer}.experts.{name}"][2].groups
    (units,) = spec.axes[f"{layer}.experts.down_proj"][2].groups
    assert spec.groups[units].within == router  # each expert has an order of units of its own
    planted = canon.random(spec, torch.Generator().manual_seed(1))
    state = made.state_dict()
    aligned = canon.align(
        state, canon.apply(spec, planted, state), model=made, example_inputs={"input_ids": IDS}
    )
    assert all(torch.equal(aligned[name], tensor) for name, tensor in state.items())
    assert aligned.report["verified"]


def test_numbers_that_are_put_out_or_computed_with_hold_the_experts_in_place() -> None:
    class Routed(nn.Module):
        def __init__(self, use: str) -> None:
            super().__init__()
            self.gate, self.experts, self.use = (
                nn.Linear(3, 4, bias=False),
                nn.Parameter(torch.randn(4, 3, 2)),
                use,
            )

        def forward(self, x: torch.Tensor) -> Any:
            weights, chosen = self.gate(x).softmax(-1).topk(2)
            y = (torch.einsum("bi,bkio->bko", x, self.experts[chosen]) * weights[..., None]).sum(1)
            return {"sum": y, "number": (y, chosen), "rank": y * chosen.sum(-1, keepdim=True)}[self.use]

    groups = {use: canon.trace(Routed(use), torch.randn(6, 3)).groups for use in ("sum", "number", "rank")}
    assert {use: len(found) for use, found in groups.items()} == {"sum": 1, "number": 0, "rank": 0}
    unchecked = canon.trace(Routed("sum"), torch.randn(6, 3), verify=False)
    assert not unchecked.groups


class Experts(nn.Module):
    """A layer of experts between two others; `way` says how experts are chosen and computed."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.before, self.gate, self.after = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(6, 2)
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 5)), nn.Parameter(torch.randn(4, 5, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        scores = self.gate(x)
        if self.way == "largest":
            weight, chosen = scores.softmax(-1).max(-1)
            y = torch.einsum("bd,bdi->bi", x, self.up[chosen]).relu()
            y = torch.einsum("bi,bid->bd", y, self.down[chosen]) * weight[:, None]
            return self.after(x + y)
        if self.way == "scattered":
            weights, chosen = scores.topk(2)
            shares = torch.zeros_like(scores).scatter(1, chosen, weights.softmax(-1))
        elif self.way == "one hot":
            chosen = scores.argmax(-1)
            shares = nn.functional.one_hot(chosen, 4) * scores.softmax(-1).gather(1, chosen[:, None])
        else:
            shares = scores.softmax(-1)
        y = torch.einsum("bd,edi->bei", x, self.up).relu()
        return self.after(x + torch.einsum("bei,eid,be->bd", y, self.down, shares))


@pytest.mark.parametrize("way", ["soft", "scattered", "one hot", "largest"])
def test_experts_of_ones_own_move_and_their_units_within_them(way: str) -> None:
    torch.manual_seed(0)
    made, x = Experts(way).eval(), torch.randn(7, 3)
    spec = canon.trace(made, x)
    (experts,) = spec.axes["gate.weight"][0].groups
    (units,) = spec.axes["up"][2].groups
    assert spec.groups[units].within == experts
    state = made.state_dict()
    moved = canon.apply(spec, canon.random(spec, torch.Generator().manual_seed(1)), state)
    match = canon.match_weights(spec, state, moved)
    back = canon.apply(spec, match.permutation, moved)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_experts_in_a_list_have_units_of_their_own_and_stay_in_order() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(3, 2)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights, chosen = self.gate(x).softmax(-1).topk(1)
            y = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                rows, place = torch.where(chosen == number)
                y = y.index_add(0, rows, expert(x[rows]) * weights[rows, place, None])
            return y

    spec = canon.trace(Listed().eval(), torch.randn(9, 3))
    assert [(group.size, group.within) for group in spec.groups.values()] == [(5, None), (5, None)]
    assert "order matters" in spec.frozen["gate.weight axis 0"]
