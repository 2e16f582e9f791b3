"""Relabelled networks are the same networks, and their tokens say so."""

import pytest
import torch

from canon.actions import permutation
from canon.errors import InputError
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.batched.inference import forward_many
from weightflow.batched.initialization import initialise
from weightflow.flow.draws import NoiseDraws
from weightflow.networks.architectures import Architecture
from weightflow.representation import used_entries
from weightflow.representation.layout import make_layout
from weightflow.representation.orbit_average import OrbitSymmetries
from weightflow.representation.standardized_tokens import Tokens
from weightflow.text import PromptBatch
from weightflow.training.augmentation import (
    Augmentation,
    AugmentConfig,
    UnitRelabelling,
    random_order,
    reorder_classes,
)
from weightflow.training.batch import Batch

CLASSES = 4
MLP = Architecture("mlp", {"inputs": 6, "hidden": [5, 7]}, (6,), CLASSES)
PRESENT = torch.tensor([[True, True, False, False], [True] * 4, [True, True, True, False]])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def state():
    return pad_with_zeros(MLP, initialise(MLP, range(len(PRESENT))), PRESENT)


@pytest.fixture(params=["rows", "blocks", "flat"])
def coordinates(request, state):
    layout = make_layout(MLP, request.param, 16)
    exchange = OrbitSymmetries(units=True, classes=True)
    return Tokens.fit(MLP, layout, lambda every=1: iter([(state, PRESENT)]), 0, True, exchange)


def batch_of(coordinates, state, generator):
    vectors = torch.randn(len(PRESENT), CLASSES, 3, generator=generator) * PRESENT.unsqueeze(-1)
    # of ten labels of the data, the first ones in logit order
    labels = torch.where(PRESENT, torch.arange(CLASSES), -1)
    labels = torch.nn.functional.pad(labels, (0, 10 - CLASSES), value=-1)
    return Batch(coordinates.encode(state, PRESENT), PromptBatch(vectors, PRESENT), labels)


def test_permuting_units_changes_the_tokens_and_not_the_function(coordinates, state, generator):
    batch = batch_of(coordinates, state, generator)
    augmentation = Augmentation(AugmentConfig(permute_units=True), MLP, coordinates.layout)
    moved = augmentation(batch, NoiseDraws(generator))
    assert not torch.allclose(moved.z, batch.z)
    inputs, forward = torch.randn(3, 8, 6, generator=generator), forward_many(MLP)
    after = forward(coordinates.decode(moved.z, PRESENT), inputs)
    torch.testing.assert_close(after, forward(state, inputs), atol=1e-5, rtol=1e-5)


def test_permuting_classes_moves_prompt_labels_and_logits_together(coordinates, state, generator):
    batch = batch_of(coordinates, state, generator)
    order = random_order(PRESENT, NoiseDraws(generator))
    moved = reorder_classes(MLP, coordinates.layout, batch, order)
    assert torch.equal(moved.prompts.present, PRESENT)
    for row, (before, after) in enumerate(zip(batch.labels.tolist(), moved.labels.tolist(), strict=True)):
        assert after == [-1 if logit < 0 else order[row].tolist().index(logit) for logit in before]
    inputs, forward = torch.randn(3, 8, 6, generator=generator), forward_many(MLP)
    before = forward(state, inputs).gather(2, order.unsqueeze(1).expand(-1, 8, -1))
    after = forward(coordinates.decode(moved.z, PRESENT), inputs)
    used = PRESENT.unsqueeze(1).expand_as(after)
    torch.testing.assert_close(after[used], before[used], atol=1e-5, rtol=1e-5)
    for row in range(len(PRESENT)):
        for new, old in enumerate(order[row].tolist()):
            assert torch.equal(moved.prompts.vectors[row, new], batch.prompts.vectors[row, old])


def test_a_random_order_keeps_missing_classes_at_the_end(generator):
    orders = [random_order(PRESENT, NoiseDraws(generator))[0].tolist() for _ in range(20)]
    assert {tuple(order[:2]) for order in orders} == {(0, 1), (1, 0)}


def test_relabelling_noise_is_linear_and_can_be_undone(coordinates, generator):
    units = UnitRelabelling(MLP, coordinates.layout)
    used = used_entries(MLP, coordinates.layout, PRESENT)
    a, b = (torch.randn(used.shape, generator=generator) * used for _ in range(2))
    p = units.draw(len(a), NoiseDraws(generator))
    torch.testing.assert_close(units(a + 2 * b, p), units(a, p) + 2 * units(b, p))
    assert torch.equal(units(units(a, p), permutation.invert(MLP.spec, p)), a)


def test_averages_over_orbits_do_not_see_a_relabelling(state, generator):
    average = OrbitSymmetries(units=True).average(MLP, state)
    moved = permutation.apply(MLP.spec, permutation.random(MLP.spec, generator, (3,)), state)
    for name, tensor in OrbitSymmetries(units=True).average(MLP, moved).items():
        torch.testing.assert_close(tensor, average[name])
        torch.testing.assert_close(tensor.flatten(1).mean(1), state[name].flatten(1).mean(1))
    assert all(torch.equal(t, state[n]) for n, t in OrbitSymmetries().average(MLP, state).items())


def test_orbits_of_flattened_channels_keep_places_in_an_image_apart():
    cnn = Architecture("cnn", {"widths": [3, 5], "grid": 2, "hidden": 4}, (3, 8, 8), CLASSES)
    drawn = initialise(cnn, [0])
    average = OrbitSymmetries(units=True).average(cnn, drawn)
    moved = permutation.apply(
        cnn.spec, permutation.random(cnn.spec, torch.Generator().manual_seed(1), (1,)), drawn
    )
    again = OrbitSymmetries(units=True).average(cnn, moved)
    assert all(torch.allclose(again[name], average[name], atol=1e-6) for name in average)
    assert any(t.unique().numel() > 5 for t in average.values())


def test_nothing_to_permute_is_said_at_the_start():
    head = Architecture("linear_head", {"inputs": 8}, (8,), CLASSES)
    with pytest.raises(InputError, match="'linear_head' has no hidden units to permute; set augment"):
        UnitRelabelling(head, make_layout(head, "rows"))
