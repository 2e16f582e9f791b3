"""Recurrent networks: gates move with the recurrent axis, layers and directions apart; planted orders come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import canon
from canon.actions import permutation as perm
from canon.spec import PermutationSpec

WORDS = torch.randint(20, (3, 5), generator=torch.Generator().manual_seed(0))


class Tagger(nn.Module):
    """Embedding, recurrent layers, an output for each step or from the last states."""

    def __init__(self, kind: Any, hidden: int = 5, last: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(20, 6), last
        self.layers = kind(6, hidden, **options)
        width = options.get("proj_size") or hidden
        self.first = options.get("batch_first", False)
        self.out = nn.Linear(width * (1 + options.get("bidirectional", False)), 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words if self.first else words.T)
        steps, final = self.layers(x)
        if not self.last:
            return self.out(steps)
        state = final[0] if isinstance(final, tuple) else final
        if self.layers.bidirectional:
            return self.out(torch.cat([state[-2], state[-1]], -1))
        return self.out(state[-1])


class Cells(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.one, self.two, self.out = kind(6, 5), kind(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = two = None
        for step in range(x.shape[1]):
            one = self.one(x[:, step], one)
            two = self.two(one[0] if isinstance(one, tuple) else one, two)
        return self.out(two[0] if isinstance(two, tuple) else two)


class Translator(nn.Module):
    """The decoder starts where the encoder ended, layer by layer."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.out = kind(6, 5, 2), kind(3, 5, 2), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.decoder(y, self.encoder(x)[1])[0])


class Learned(nn.Module):
    """A learned initial state, the same for all layers, and a scan from which every state is read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.layers, self.out = (
            nn.Parameter(torch.randn(1, 1, 5)),
            nn.GRU(6, 5, 2),
            nn.Linear(5, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        steps, final = self.layers(x, self.start.expand(2, x.shape[1], 5).contiguous())
        return self.out(steps[-1]) + final.mean(0)[:, :4]


def planted(module: nn.Module, inputs: Any) -> PermutationSpec:
    """The spec; a random element keeps what torch computes, and matching finds a planted one."""
    spec = canon.trace(module, inputs)
    generator = torch.Generator().manual_seed(3)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    moved = perm.apply(spec, perm.random(spec, generator), state)
    before = module(*inputs)
    module.load_state_dict(moved)
    assert torch.allclose(module(*inputs), before, atol=1e-5)
    module.load_state_dict(state)
    match = canon.match_weights(spec, state, moved)
    back = perm.apply(spec, match.permutation, moved)
    assert all(torch.equal(back[name], state[name]) for name in state)
    return spec


KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPTIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 1),
    ({"num_layers": 2, "batch_first": True}, 2),
    ({"num_layers": 2, "bidirectional": True, "bias": False}, 4),
    ({"num_layers": 3, "last": True}, 3),
    ({"bidirectional": True, "last": True, "batch_first": True}, 2),
]


@pytest.mark.parametrize(
    ("options", "layers"), OPTIONS, ids=lambda o: " ".join(o) if isinstance(o, dict) else ""
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_and_direction_has_units_of_its_own(
    kind: str, options: dict[str, Any], layers: int
) -> None:
    torch.manual_seed(0)
    spec = planted(Tagger(KINDS[kind], **options).eval(), (WORDS,))
    sizes = sorted(group.size for group in spec.groups.values())
    assert sizes == [5] * layers + [6]  # and the embedding


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_a_projection_has_units_beside_those_of_the_cell(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    spec = planted(Tagger(nn.LSTM, 7, proj_size=3, **options).eval(), (WORDS,))
    layers = 4 if options else 1
    assert sorted(group.size for group in spec.groups.values()) == [3] * layers + [6] + [7] * layers


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(kind: Any) -> None:
    torch.manual_seed(0)
    spec = planted(Cells(kind).eval(), (torch.randn(2, 3, 6),))
    assert sorted(group.size for group in spec.groups.values()) == [5, 7]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_states_that_are_handed_on_tie_layers_one_by_one(kind: Any) -> None:
    torch.manual_seed(0)
    spec = planted(Translator(kind).eval(), (torch.randn(4, 2, 6), torch.randn(3, 2, 3)))
    assert [group.size for group in spec.groups.values()] == [5, 5]
    for layer in (0, 1):
        axes = [spec.axes[f"{part}.weight_hh_l{layer}"][1].groups for part in ("encoder", "decoder")]
        assert axes[0] == axes[1]


def test_layers_that_are_read_as_one_move_as_one() -> None:
    torch.manual_seed(0)
    spec = canon.trace(Learned().eval(), (torch.randn(4, 2, 6),))
    assert not spec.groups  # the output reads states by position, and all layers start alike


@pytest.mark.parametrize("kind", KINDS)
def test_align_and_merge_move_recurrent_networks(kind: str) -> None:
    torch.manual_seed(0)
    a, b = (Tagger(KINDS[kind], num_layers=2).eval() for _ in "ab")
    aligned = canon.align(a, b, example_inputs=WORDS)
    assert aligned.report["verified"]
    assert aligned.report["moved_fraction"] > 0.5
    assert torch.allclose(aligned(WORDS), b(WORDS), atol=1e-5)
    assert not torch.equal(aligned.layers.weight_hh_l0, b.layers.weight_hh_l0)
    merged = canon.merge([a, b], example_inputs=WORDS)
    assert not any("not aligned" in text for text in merged.report["warnings"])
    assert torch.allclose(merged.out.weight, (a.out.weight + aligned.out.weight) / 2)
    assert canon.equivalent(b, aligned, example_inputs=WORDS)
    assert canon.equivalent(a, b, example_inputs=WORDS).same is False


class Packed(nn.Module):
    def __init__(self, kind: Any, way: str) -> None:
        super().__init__()
        self.words, self.way = nn.Embedding(11, 6), way
        self.layer = kind(6, 5, 2, batch_first=True, bidirectional=way == "final")
        self.out = nn.Linear(10 if way == "final" else 5, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        steps, states = self.layer(packed)
        if self.way == "final":
            return self.out(torch.cat([states[-2], states[-1]], -1))
        steps = rnn.PackedSequence(steps.data.relu(), *steps[1:])
        return self.out(rnn.pad_packed_sequence(steps, batch_first=True)[0])


@pytest.mark.parametrize(("kind", "way"), [(nn.LSTM, "steps"), (nn.GRU, "final")])
def test_packed_sequences_keep_their_function_and_planted_orders_come_back(kind: Any, way: str) -> None:
    torch.manual_seed(0)
    a, inputs = Packed(kind, way).eval(), (torch.randint(11, (3, 7)), torch.tensor([5, 7, 2]))
    spec = canon.trace(a, inputs)
    assert len(spec.groups) == (5 if way == "final" else 3)
    state = a.state_dict()
    moved = canon.apply(spec, canon.random(spec, torch.Generator().manual_seed(1)), state)
    aligned = canon.align(a, moved, example_inputs=inputs)
    assert aligned.report["verified"]
    assert all(torch.equal(aligned[name], tensor) for name, tensor in state.items())
    before = a.double()(*inputs)  # packed, as the module itself computes
    a.load_state_dict(moved)
    torch.testing.assert_close(a(*inputs), before, rtol=1e-12, atol=1e-12)
