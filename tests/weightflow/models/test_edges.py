"""Messages along the network's own edges."""

import dataclasses
import json

import pytest
import torch

from weightflow.models import ModelConfig
from weightflow.models.transformer import WeightTransformer
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import Layout, make_layout

CONFIG = ModelConfig(width=16, depth=2, heads=2, edges=True)
NETWORKS = {
    "mlp": (Architecture("mlp", {"inputs": 5, "hidden": [4, 3]}, (5,), 4), "rows", ["1.weight", "3.weight", "5.weight"]),
    "cnn": (Architecture("cnn", {"widths": [4, 6]}, (3, 8, 8), 4), "rows", None),
}  # fmt: skip


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def model_of(layout, generator, config=CONFIG):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WeightTransformer(layout, 6, 4, config)
        for parameter in model.parameters():  # so that zeros at the start hide nothing
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(layout, generator):
    x = torch.randn(2, layout.tokens, layout.width, generator=generator)
    present = torch.tensor([[True] * 4, [True, True, True, False]])
    return x, torch.tensor([0.2, 0.7]), torch.randn(2, 4, 6, generator=generator), present


def test_a_link_holds_the_weights_between_units_and_rows(generator):
    architecture = NETWORKS["mlp"][0]
    layout = make_layout(architecture, "rows")
    state = {n: torch.randn(2, *s, generator=generator) for n, s in architecture.shapes.items()}
    blocks = layout.encode(state).split([b.tokens for b in layout.blocks], dim=1)
    found = [link.weights(blocks[link.rows]) for link in layout.links]
    assert len(found) == 2  # the first layer reads inputs, which are no units
    torch.testing.assert_close(found[0], state["3.weight"])
    torch.testing.assert_close(found[1], state["5.weight"])


def test_links_of_convolutions_are_means_over_the_kernel(generator):
    architecture = NETWORKS["cnn"][0]
    layout = make_layout(architecture, "rows")
    state = {n: torch.randn(2, *s, generator=generator) for n, s in architecture.shapes.items()}
    blocks = layout.encode(state).split([b.tokens for b in layout.blocks], dim=1)
    kernels = [tensor.mean((-1, -2)) for tensor in state.values() if tensor.dim() == 5]
    found = [link.weights(blocks[link.rows]) for link in layout.links]
    assert any(a.shape == b.shape and torch.allclose(a, b) for a in found for b in kernels)


def test_a_layout_keeps_its_links_through_json():
    layout = make_layout(NETWORKS["mlp"][0], "rows")
    written = json.loads(json.dumps(layout.to_dict()))
    assert Layout.from_dict(written) == layout
    older = dict(written)
    del older["links"]  # of a run before there were any
    assert Layout.from_dict(older).blocks == layout.blocks


@pytest.mark.parametrize("name", NETWORKS)
def test_messages_follow_units_that_trade_places(name, generator):
    """With positions alike, permuting the first group's units permutes the answer and changes nothing else."""
    layout = make_layout(NETWORKS[name][0], "rows")
    model = model_of(layout, generator)
    model.positions.data.zero_()
    first = layout.links[0].units
    offsets = torch.tensor([0, *(b.tokens for b in layout.blocks)]).cumsum(0)
    order = torch.arange(layout.tokens)
    own = slice(int(offsets[first]), int(offsets[first + 1]))
    order[own] = order[own].flip(0)

    def move(x):
        x = x[:, order].clone()
        for link in (link for link in layout.links if link.units == first):
            rows = slice(int(offsets[link.rows]), int(offsets[link.rows + 1]))
            size = link.before * link.count * link.after
            part = x[:, rows, link.start : link.start + size]
            part = part.unflatten(-1, (link.before, link.count, link.after)).flip(-2).flatten(-3)
            x[:, rows, link.start : link.start + size] = part
        return x

    x, t, text, present = inputs(layout, generator)
    # maps into and out of the hidden states know columns by number: only the linked ones are told through edges
    for link in layout.links:
        size = link.before * link.count * link.after
        model.encoders[link.rows].weight.data[:, link.start : link.start + size] = 0
        model.decoders[link.rows].weight.data[link.start : link.start + size] = 0
        model.decoders[link.rows].bias.data[link.start : link.start + size] = 0
    torch.testing.assert_close(
        model(move(x), t, text, present), move(model(x, t, text, present)), rtol=1e-4, atol=1e-4
    )


def test_noise_in_the_rows_of_classes_decides_the_features_of_units(generator):
    """Without edges a model at its start makes one network of every noise; with them rows begin at the noise."""
    layout = make_layout(NETWORKS["mlp"][0], "rows")
    x, _, text, present = inputs(layout, generator)
    for edges in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = WeightTransformer(layout, 6, 4, dataclasses.replace(CONFIG, edges=edges))
        made = model(x, torch.zeros(2), text, present)
        other = model(-x, torch.zeros(2), text, present)
        assert torch.equal(made, other) != edges


def test_classes_that_are_not_there_send_no_message(generator):
    layout = make_layout(NETWORKS["mlp"][0], "rows")
    model = model_of(layout, generator)
    x, t, text, present = inputs(layout, generator)
    x[1, -1] = 0  # the last row is that of the fourth class, which the second network lacks
    before = model(x, t, text, present)
    text[1, 3] = 9.0
    torch.testing.assert_close(model(x, t, text, present), before)


def test_architectures_without_hidden_units_have_no_edges():
    linear = Architecture("mlp", {"inputs": 5, "hidden": []}, (5,), 4)
    model = WeightTransformer(make_layout(linear, "rows"), 6, 4, CONFIG)
    assert not model.edges
    assert model.last_edges is None
