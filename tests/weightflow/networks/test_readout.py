"""Networks without logits: their outputs are compared with words, the same way wherever they are used."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from canon.errors import InputError
from tests.population import TINY_RUN
from weightflow import datasets
from weightflow.batched.class_axes import masked_cross_entropy
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.cosine_layer import CosineLayer
from weightflow.batched.inference import predict_many
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.population import evaluate_zoo
from weightflow.export.export import export_zoo
from weightflow.generator.decode import to_module
from weightflow.generator.generator import Flow, SampleConfig
from weightflow.generator.populations import generate_zoo
from weightflow.networks.architectures import Architecture
from weightflow.networks.readout import Compared, Cosine, Logits, cosine, from_dict
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.dataset_card import card
from weightflow.zoo.network_file import read_network, write_network
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

DIGITS = datasets.load("digits")
TASKS = [Task("digits", ("two", "seven", "four")), Task("digits", ("nine", "one"))]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "table.npz"
    vectors = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    np.savez(path, names=np.array(DIGITS.class_names), embeddings=vectors)
    return f"table:{path}"


@pytest.fixture(scope="module")
def adapter(table):
    arguments = {"inputs": 64, "hidden": 6, "outputs": 7}
    return Architecture("adapter", arguments, (64,), 4, cosine(table, temperature=10.0))


def by_hand(architecture, state, task, inputs):
    module = architecture.build()
    module.load_state_dict(state)
    vectors = architecture.readout._encoder().vectors(task.classes)
    return 10.0 * F.normalize(module(inputs), dim=-1) @ F.normalize(vectors, dim=-1).T


@pytest.mark.parametrize("together", [1, 2])
def test_many_adapters_are_trained_as_one_is(adapter, together):
    """In plain PyTorch; written-out and recorded gradients."""
    recipe = TrainingRecipe(steps=6, batch_size=8, optimizer="adam", schedule="constant")
    begin = initialise(adapter, [3, 4])
    for accumulate in (1, 2):  # 2: recorded
        some = dataclasses.replace(recipe, together=together, accumulate=accumulate)
        found = train_many(adapter, DIGITS, TASKS, [3, 4], some).state
        for row, task in enumerate(TASKS):
            module = adapter.build()
            module.load_state_dict({name: tensor[row] for name, tensor in begin.items()})
            optimizer = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)
            wanted = DIGITS.class_index(task.classes)
            rows = torch.nonzero(torch.isin(DIGITS.train.labels, torch.tensor(wanted))).squeeze(1)
            order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(3 + row))]
            for batch in order[:48].split(8):
                targets = torch.tensor([wanted.index(int(label)) for label in DIGITS.train.labels[batch]])
                vectors = F.normalize(adapter.readout._encoder().vectors(task.classes), dim=-1)
                scores = 10.0 * F.normalize(module(DIGITS.train.inputs[batch]), dim=-1) @ vectors.T
                optimizer.zero_grad()
                F.cross_entropy(scores, targets).backward()
                optimizer.step()
            for name, tensor in module.state_dict().items():
                torch.testing.assert_close(found[name][row], tensor, atol=1e-5, rtol=1e-4)


def test_the_written_out_derivatives_are_autograds(adapter):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    text = adapter.readout.targets([task.classes for task in TASKS], 4).double()
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    weight, bias, h = random(2, 7, 3), random(2, 7), random(2, 3, 5)
    targets = torch.tensor([[0, 2, 1, 1, 0], [1, 0, 0, 1, 1]])
    output = torch.baddbmm(bias.unsqueeze(-1), weight, h).mT
    scores = adapter.readout.scores(output, text)
    expected = torch.autograd.grad(masked_cross_entropy(scores, targets, mask).sum(), (weight, bias, h))
    layer = CosineLayer(weight.detach(), bias.detach(), adapter.readout.temperature * text)
    same = layer.scores(h.detach())
    torch.testing.assert_close(same.mT, scores, atol=1e-12, rtol=1e-12)
    leaf = same.detach().requires_grad_()
    (d,) = torch.autograd.grad(masked_cross_entropy(leaf.mT, targets, mask).sum(), leaf)
    for found, wanted in zip(layer.gradients(d), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


def test_prediction_module_and_file_agree_with_the_definition(adapter, tmp_path):
    state = initialise(adapter, [1, 2])
    inputs = DIGITS.validation.inputs[:20]
    predicted = predict_many(adapter, state, inputs, DIGITS, TASKS)
    for row, task in enumerate(TASKS):
        own = {name: tensor[row] for name, tensor in state.items()}
        scores = by_hand(adapter, own, task, inputs)
        module = to_module(adapter, own, Prompt(task.classes))
        assert isinstance(module, Compared)
        torch.testing.assert_close(module(inputs), scores, atol=1e-5, rtol=1e-4)
        labels = torch.tensor(DIGITS.class_index(task.classes))[scores.argmax(1)]
        assert torch.equal(predicted[row], labels)
        path = tmp_path / f"{row}.safetensors"
        write_network(
            path, adapter, {name: tensor[row : row + 1] for name, tensor in state.items()}, task.classes
        )
        found = read_network(path, adapter, "digits")
        assert found.prompt.classes == task.classes
        assert all(torch.equal(found.state[name][0], own[name]) for name in own)


def test_outputs_are_compared_with_classes_as_the_prompt_describes_them(adapter):
    own = {name: tensor[0] for name, tensor in initialise(adapter, [1]).items()}
    inputs, plain = DIGITS.validation.inputs[:20], Prompt(("three", "seven"))
    told = Prompt.parse("a = three, b = seven | nine")
    before, after = (to_module(adapter, own, prompt)(inputs) for prompt in (plain, told))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_the_order_of_classes_is_no_part_of_an_adapter(adapter):
    state = {
        name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) for name, tensor in initialise(adapter, [1]).items()
    }
    tasks = [TASKS[0], Task("digits", TASKS[0].classes[::-1])]
    predicted = predict_many(adapter, state, DIGITS.validation.inputs, DIGITS, tasks)
    assert torch.equal(predicted[0], predicted[1])


@pytest.fixture(scope="module")
def adapters(table, tmp_path_factory):
    changes = {
        "dataset": "digits",
        "architecture": {"arguments": {"inputs": 64, "hidden": 12, "outputs": 7}},
        "readout": {"encoder": table},
        "tasks": {"sizes": [2, 4], "seen": 8, "validation": 2, "unseen": 2, "held_out": 3, "unseen_classes": 2,
                  "unseen_by_backbone": 0, "classes": list(DIGITS.class_names)},
        "training": {"steps": 150, "learning_rate": 3e-3}, "base": {"steps": 150},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("adapters") / "zoo"
    build_zoo(read_recipe("t2w_adapter", changes), folder)
    return Zoo(folder)


def test_adapters_are_a_zoo_that_learns(adapters, table):
    assert adapters.architecture.readout == cosine(table)
    assert adapters.manifest["base"]
    tasks = [record.task for record in adapters.records]
    assert {len(task.classes) for task in tasks} > {2}
    assert "compared by cosine with their text vectors (encoder " in card(adapters)
    assert float(evaluate_networks(adapters.architecture, adapters.load(), tasks).accuracy.mean()) > 0.8


def test_a_generator_of_adapters_goes_through_the_whole_pipeline(adapters, table, tmp_path):
    canonicalize_zoo(adapters, tmp_path / "canonical")
    zoo = Zoo(tmp_path / "canonical")
    rows = list(range(len(zoo)))
    tasks = [zoo.records[i].task for i in rows]
    moved, before = (evaluate_networks(z.architecture, z.load(), tasks) for z in (zoo, adapters))
    assert torch.equal(moved.predicted, before.predicted)
    config = read_preset("weightflow", {**TINY_RUN, "encoder": table})
    assert config.behaviour.weight > 0
    done = start(zoo, config, tmp_path / "run").run()
    assert math.isfinite(done.best)
    flow = Flow(tmp_path / "run")
    module = flow.generate(["nine", "two", "five"])
    assert module(torch.rand(6, 64) * 16).shape == (6, 3)
    list(generate_zoo(flow, [Prompt(("nine", "two"))], 2, 0, SampleConfig(), tmp_path / "made"))
    assert 0 <= evaluate_zoo(Zoo(tmp_path / "made"))["zoo"]["accuracy"]["mean"] <= 1
    assert len(export_zoo(Zoo(tmp_path / "made"), tmp_path / "files", format="pt2")) == 2


def test_a_readout_survives_json(adapter):
    assert from_dict(None) == Logits()
    again = Architecture.from_dict(json.loads(adapter.to_json()))
    assert again == adapter
    assert "readout" not in Architecture("linear_head", {"inputs": 3}, (3,), 2).to_dict()


def test_other_vectors_under_the_same_name_are_noticed(adapter):
    other = Cosine(adapter.readout.encoder, "table:0000")
    with pytest.raises(
        InputError, match="text encoder mismatch: the networks need table:0000, .* now resolves to table:"
    ):
        other.targets([("two", "one")], 2)


@pytest.mark.parametrize(
    ("arguments", "readout", "message"),
    [
        (
            {"inputs": 64, "hidden": 2},
            None,
            "gives vectors to compare with text, not logits; name the encoder",
        ),
        ({"inputs": 64, "hidden": 2}, "own", "gives vectors of 64 numbers, .* vectors of 7; set .*outputs=7"),
    ],
)
def test_what_cannot_be_compared_is_refused(table, arguments, readout, message):
    wrong = Architecture("adapter", arguments, (64,), 4, cosine(table) if readout else Logits())
    with pytest.raises(InputError, match=message):
        train_many(wrong, DIGITS, TASKS, [1, 2], TrainingRecipe(steps=1))
    with pytest.raises(InputError, match="readout.temperature is 0"):
        cosine(table, 0.0)
