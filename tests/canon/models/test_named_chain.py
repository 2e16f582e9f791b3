"""Named layers in a bare checkpoint: frozen, or a chain where a person says so."""

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import canon
from canon.actions import permutation
from canon.errors import InputError
from canon.models.families import recognise

IMAGES, FLAT, IDS = torch.randn(3, 1, 10, 10), torch.randn(3, 5), torch.randint(11, (2, 4))


class Tutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6 * 4, 9), nn.Linear(9, 3)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 1)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Numbered(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 7)

    def forward(self, x):
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class Language(nn.Module):
    def __init__(self, kind, layers=1, both=False, last=False, **options):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = kind(6, 8, layers, batch_first=True, bidirectional=both, **options)
        self.decoder, self.last = nn.Linear((1 + both) * options.get("proj_size", 8), 4), last

    def forward(self, x):
        x = self.rnn(self.embedding(x))[0]
        return self.decoder(x[:, -1] if self.last else x)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7))
        self.head = nn.Linear(7, 2)

    def forward(self, x):
        return self.head(torch.relu(self.encoder(x)))


NETWORKS = {
    "tutorial": (Tutorial, IMAGES),
    "numbered": (Numbered, FLAT),
    "sequential and head": (Mixed, FLAT),
    "lstm": (lambda: Language(nn.LSTM, 2), IDS),
    "lstm, both directions": (lambda: Language(nn.LSTM, 2, both=True, last=True), IDS),
    "lstm, projected": (lambda: Language(nn.LSTM, proj_size=5), IDS),
    "gru": (lambda: Language(nn.GRU, 2), IDS),
    "rnn": (lambda: Language(nn.RNN), IDS),
    "rnn with relu": (lambda: Language(nn.RNN, nonlinearity="relu"), IDS),
}


def in_alphabetical_order(state):
    return dict(sorted(state.items()))


def in_the_order_of_safetensors(state):
    """By dtype, integers of 64 bits first, then by key."""
    return dict(sorted(state.items(), key=lambda item: (item[1].is_floating_point(), item[0])))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        *((name, dict) for name in NETWORKS),
        ("tutorial", in_alphabetical_order),
        ("lstm", in_alphabetical_order),
        ("numbered", in_alphabetical_order),
        ("tutorial", in_the_order_of_safetensors),
    ],
)
def test_a_chain_that_was_assumed_keeps_the_function_and_comes_back(name, order):
    build, x = NETWORKS[name]
    torch.manual_seed(0)
    net = build().double().eval()
    state = order({key: tensor.clone() for key, tensor in net.state_dict().items()})
    found = recognise(state, assume=["chain"])
    assert found.spec.groups
    assert found.stated
    moved = permutation.apply(
        found.spec, permutation.random(found.spec, torch.Generator().manual_seed(1)), state
    )
    x = x.double() if x.is_floating_point() else x
    before = net(x)
    net.load_state_dict(moved)
    torch.testing.assert_close(net(x), before)
    match = canon.match_weights(found.spec, state, moved)
    back = permutation.apply(found.spec, match.permutation, moved)
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert not any(group.scale != "none" for group in found.spec.groups.values())  # no activation was named


@pytest.mark.parametrize("name", NETWORKS)
def test_named_layers_stay_in_place_until_a_chain_is_assumed(name):
    found = recognise(NETWORKS[name][0]().state_dict())
    assert not found.spec.groups
    assert "--assume chain" in found.spec.frozen["every tensor"]


class Square(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        for key, layer in {"start": nn.Linear(3, 4), first: nn.Linear(4, 4), second: nn.Linear(4, 4)}.items():
            self.add_module(key, layer)


def test_an_order_that_the_alphabet_hides_is_refused(tmp_path):
    state = Square("decode", "code").state_dict()
    assert recognise(state, assume=["chain"]).spec.groups
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="sorted keys do not tell the order"):
        canon.inspect(tmp_path / "a.safetensors", assume="chain")


def test_an_order_that_is_by_dtype_and_alphabet_is_refused(tmp_path):
    layers = {"start": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "end": nn.Linear(4, 4)}
    state = nn.Sequential(OrderedDict(layers)).state_dict()
    assert recognise(state, assume=["chain"]).spec.groups
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="sorted keys do not tell the order"):
        canon.inspect(tmp_path / "a.safetensors", assume="chain")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_a_chain_of_narrow_numbers_moves(dtype):
    state = {k: t.to(dtype) if t.is_floating_point() else t for k, t in Tutorial().state_dict().items()}
    assert recognise(state, assume=["chain"]).spec.groups


def test_a_table_that_may_be_a_layer_is_refused():
    state = {"table.weight": torch.randn(4, 4), "out.weight": torch.randn(2, 4), "out.bias": torch.randn(2)}
    with pytest.raises(InputError, match="may be an embedding or a linear layer"):
        recognise(state, assume=["chain"])


def test_layers_that_do_not_follow_one_another_are_refused():
    state = nn.ModuleDict({"up": nn.Linear(4, 6), "other": nn.Linear(5, 6)}).state_dict()
    with pytest.raises(InputError, match="the shapes do not fit"):
        recognise(state, assume=["chain"])
