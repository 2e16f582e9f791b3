"""Many at once is one at a time: plain PyTorch, one module and one optimizer, is the reference."""

import numpy as np
import pytest
import torch
from torch import nn

from canon.errors import InputError
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.group_size import networks_per_group
from weightflow.batched.inference import accuracies, predict_many
from weightflow.batched.initialization import initialise
from weightflow.batched.minibatches import mini_batches
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.data.types import from_arrays
from weightflow.datasets import ClassificationData
from weightflow.networks.architectures import FAMILIES, Architecture

NAMES = ("cat", "dog", "eel")
MLP = Architecture("mlp", {"inputs": 192, "hidden": [6]}, (3, 8, 8), 3)
CNN = Architecture(
    "cnn", {"widths": [4, 5], "norm": True, "bias": False, "grid": 2, "hidden": 6}, (3, 8, 8), 3
)  # a bias before batch norm has no gradient but rounding, which Adam blows up


class RandomFeatures(nn.Module):
    """Frequencies that are drawn once and kept in a buffer, a frozen layer, and two that are trained."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(192, 6))
        self.frozen, self.hidden, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, classes)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.hidden(self.frozen(torch.cos(x.flatten(1) @ self.frequencies)))))


def random_features(classes: int) -> nn.Module:
    return RandomFeatures(classes)


def frozen_throughout(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).requires_grad_(False)


RANDOM_FEATURES = Architecture("random_features", {}, (3, 8, 8), 3)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    own = {"random_features": random_features, "frozen_throughout": frozen_throughout}
    monkeypatch.setattr(FAMILIES, "_entries", FAMILIES._entries | own)


@pytest.fixture(scope="module")
def data() -> ClassificationData:
    """Sixty images, each class brighter in one colour."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.normal(size=(60, 3, 8, 8)) + 2.0 * np.eye(3)[labels][:, :, None, None]
    return from_arrays("pets", NAMES, images.astype(np.float32), labels, divisor=1.0, licence="none")


def alone(architecture, data, task, seed, recipe):
    module = architecture.build().train()
    module.load_state_dict({k: v[0] for k, v in initialise(architecture, [seed]).items()})
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    optimizer = kinds[recipe.optimizer](
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **more
    )
    wanted = data.class_index(task.classes)
    rows = torch.nonzero(torch.isin(data.train.labels, torch.tensor(wanted))).squeeze(1)
    seed = seed if recipe.batch_seed is None else recipe.batch_seed
    generator, stream = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            share = (1 + np.cos(np.pi * step / recipe.steps)) / 2 if recipe.schedule == "cosine" else 1.0
            group["lr"] = recipe.learning_rate * share
        while len(stream) < recipe.batch_size:
            stream = torch.cat([stream, rows[torch.randperm(len(rows), generator=generator)]])
        batch, stream = stream[: recipe.batch_size], stream[recipe.batch_size :]
        targets = torch.tensor([wanted.index(int(label)) for label in data.train.labels[batch]])
        logits = module(data.train.inputs[batch])[:, : len(wanted)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing).backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
        optimizer.step()
    return module, rows


RECIPES = {
    "adamw": TrainingRecipe(steps=9, batch_size=8, weight_decay=0.1, label_smoothing=0.1),
    "adam": TrainingRecipe(steps=9, batch_size=8, optimizer="adam", schedule="constant", clip=0.5),
    "sgd": TrainingRecipe(steps=9, batch_size=8, optimizer="sgd", learning_rate=0.1, weight_decay=1e-3),
    "shared batches": TrainingRecipe(steps=9, batch_size=8, batch_seed=4),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("architecture", [MLP, CNN, RANDOM_FEATURES], ids=["mlp", "cnn", "random features"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_many_are_trained_as_one_is(data, architecture, recipe, count):
    """At once, two at a time with one left over, and one at a time."""
    import dataclasses

    tasks = [Task("pets", order) for order in (NAMES, ("eel", "cat", "dog"), ("dog", "eel", "cat"))]
    found = train_many(
        architecture, data, tasks, [5, 6, 7], dataclasses.replace(recipe, together=count)
    ).state
    names = dict(architecture.build().named_parameters())
    for row, (task, seed) in enumerate(zip(tasks, [5, 6, 7], strict=True)):
        expected = alone(architecture, data, task, seed, recipe)[0].state_dict()
        for name in names:
            torch.testing.assert_close(found[name][row], expected[name], atol=2e-5, rtol=1e-4)


def test_fewer_classes_train_alike_and_are_padded(data):
    tasks = [Task("pets", ("eel", "cat")), Task("pets", NAMES)]
    found = train_many(MLP, data, tasks, [1, 2], RECIPES["adamw"]).state
    expected = MLP.trim(alone(MLP, data, tasks[0], 1, RECIPES["adamw"])[0].state_dict(), 2)
    for name, tensor in MLP.trim({k: v[0] for k, v in found.items()}, 2).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-5, rtol=1e-4)
    assert not found["3.weight"][0, 2].any()


def test_running_statistics_are_those_of_the_training_examples(data):
    task = Task("pets", NAMES)
    found = train_many(CNN, data, [task], [3], RECIPES["adamw"]).state
    module, rows = alone(CNN, data, task, 3, RECIPES["adamw"])
    first = module[0](data.train.inputs[rows])
    torch.testing.assert_close(found["1.running_mean"][0], first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["1.running_var"][0], first.var((0, 2, 3)), atol=1e-5, rtol=1e-3)
    assert found["1.num_batches_tracked"].tolist() == [1]


def test_networks_with_batch_norm_learn_and_predict(data):
    tasks = [Task("pets", NAMES)] * 2
    state = train_many(
        CNN, data, tasks, [1, 2], TrainingRecipe(steps=60, batch_size=16, learning_rate=1e-2)
    ).state
    predicted = predict_many(CNN, state, data.validation.inputs, data, tasks)
    assert float(accuracies(predicted, data.validation.labels, data, tasks).min()) > 0.7
    assert torch.equal(predicted, predict_many(CNN, state, data.validation.inputs, data, tasks, chunk=2))


def test_training_starts_where_it_is_told_to(data):
    tasks = [Task("pets", NAMES)] * 2
    begin = initialise(MLP, [8, 9])
    recipe = RECIPES["adamw"]
    told = train_many(MLP, data, tasks, [8, 9], recipe, start=begin).state
    own = train_many(MLP, data, tasks, [8, 9], recipe).state
    assert all(torch.equal(told[name], own[name]) for name in own)
    assert all(torch.equal(begin[name], again) for name, again in initialise(MLP, [8, 9]).items())


def test_mini_batches_do_not_depend_on_how_far_ahead_they_are_drawn():
    rows = [torch.arange(7), torch.arange(3, 14)]
    drawn = [torch.stack(list(mini_batches(rows, 4, 11, [1, 2], block=b))) for b in (1, 3, 64)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert sorted(drawn[0][:, 0].flatten().tolist()[:7]) == list(range(7))


def test_progress_counts_the_steps_of_every_network(data):
    told = []
    recipe = TrainingRecipe(steps=4, batch_size=4, together=2)
    train_many(MLP, data, [Task("pets", NAMES)] * 3, [1, 2, 3], recipe, told.append)
    assert sum(told) == 12


def test_what_is_faster_alone_is_run_alone():
    assert networks_per_group(MLP) == 250
    assert networks_per_group(CNN) == 1


def test_data_that_do_not_fit_are_refused_before_training(data):
    grey = Architecture("cnn", {"widths": [4], "channels": 1}, (3, 8, 8), 3)
    with pytest.raises(InputError, match=r"'cnn' .* cannot take examples of shape \(3, 8, 8\) .* 'pets'"):
        train_many(grey, data, [Task("pets", NAMES)], [1], TrainingRecipe(steps=1))


def test_shared_batches_need_the_same_classes(data):
    tasks = [Task("pets", NAMES), Task("pets", ("cat", "dog"))]
    with pytest.raises(InputError, match="their tasks have different classes"):
        train_many(MLP, data, tasks, [1, 2], TrainingRecipe(steps=1, batch_seed=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; there are: adam, adamw, sgd"),
        ({"schedule": "step"}, "unknown schedule 'step'"),
        ({"steps": 0}, "steps 0 and batch_size 32 are at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TrainingRecipe(**settings)


@pytest.mark.parametrize("together", [1, 2])
def test_what_needs_no_gradient_stays_as_it_was_drawn(data, together):
    recipe = TrainingRecipe(steps=5, batch_size=8, weight_decay=0.5, together=together)
    tasks = [Task("pets", NAMES)] * 2
    begin = initialise(RANDOM_FEATURES, [0, 1])
    found = train_many(RANDOM_FEATURES, data, tasks, [0, 1], recipe).state
    assert {name for name in begin if torch.equal(begin[name], found[name])} == {
        "frequencies",
        "frozen.weight",
        "frozen.bias",
    }


def test_an_architecture_without_anything_to_train_is_refused(data):
    architecture = Architecture("frozen_throughout", {}, (3, 8, 8), 3)
    with pytest.raises(InputError, match="no parameters that need a gradient"):
        train_many(architecture, data, [Task("pets", NAMES)], [0], TrainingRecipe(steps=1))
