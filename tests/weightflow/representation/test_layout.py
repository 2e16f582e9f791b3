"""The layout's inverse is bit-exact, for every scheme and architecture."""

import json

import pytest
import torch

from canon.errors import InputError
from weightflow.networks.architectures import Architecture
from weightflow.representation import used_entries
from weightflow.representation.layout import SCHEMES, Layout, make_layout
from weightflow.representation.orbit_average import OrbitSymmetries
from weightflow.representation.standardized_tokens import Tokens

ARCHITECTURES = {
    "one hidden layer": Architecture("mlp", {"inputs": 6, "hidden": [5]}, (6,), 4),
    "three hidden layers": Architecture("mlp", {"inputs": 6, "hidden": [5, 7, 3]}, (6,), 4),
}


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def state(architecture):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, *shape, generator=generator) for name, shape in architecture.shapes.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_decode_undoes_encode_bit_for_bit(architecture, state, scheme):
    layout = make_layout(architecture, scheme, width=10)
    tokens = layout.encode(state)
    assert tokens.shape == (3, layout.tokens, layout.width)
    back = layout.decode(tokens)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layout_survives_json(architecture, scheme):
    layout = make_layout(architecture, scheme, width=10)
    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_a_unit_owns_its_incoming_weights_bias_and_outgoing_weights():
    architecture = ARCHITECTURES["one hidden layer"]
    layout = make_layout(architecture, "units")
    state = {name: torch.zeros(1, *shape) for name, shape in architecture.shapes.items()}
    state["1.weight"][0, 2], state["1.bias"][0, 2], state["3.weight"][0, :, 2] = 1.0, 1.0, 1.0
    tokens = layout.encode(state)[0]
    assert tokens[2].tolist() == [1.0] * (6 + 1 + 4)
    assert tokens.sum() == 6 + 1 + 4


def test_every_class_is_a_token_in_rows():
    layout = make_layout(ARCHITECTURES["one hidden layer"], "rows")
    assert [(b.kind, b.tokens, b.width) for b in layout.blocks] == [("units", 5, 7), ("classes", 4, 6)]


def test_an_unknown_layout_lists_what_there_is(architecture):
    with pytest.raises(InputError, match="unknown layout 'neurons'; there are: blocks, flat, rows, units"):
        make_layout(architecture, "neurons")


def test_coordinates_are_standardised_and_masked(architecture, state):
    present = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])
    layout = make_layout(architecture, "rows")
    halves = [({k: v[rows] for k, v in state.items()}, present[rows]) for rows in (slice(2), slice(2, 3))]
    coordinates = Tokens.fit(architecture, layout, lambda every=1: iter(halves), 0, True, OrbitSymmetries())
    z = coordinates.encode(state, present)
    used = used_entries(architecture, layout, present)
    assert not z[~used].any()
    torch.testing.assert_close(z.sum(0), torch.zeros_like(z[0]), atol=1e-5, rtol=0)
    back = coordinates.decode(z, present)
    for name in state:
        kept = architecture.trim({name: state[name][1]}, 2)[name]
        torch.testing.assert_close(architecture.trim({name: back[name][1]}, 2)[name], kept)
    assert list(back) == list(architecture.shapes)
    last = back[list(back)[-1]]
    assert not last[1, 2:].any()
