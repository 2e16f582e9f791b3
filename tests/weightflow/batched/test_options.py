"""Options of training: stopping early, precision, initialisation, augmentation, dropout."""

import dataclasses

import pytest
import torch

from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.data.augmentation import PADDING, crop_flip
from weightflow.networks.architectures import Architecture

DIGITS = datasets.load("digits")
MLP = Architecture("mlp", {"inputs": 64, "hidden": [16]}, (64,), 10)
TASKS = [Task("digits", DIGITS.class_names)] * 4
SEEDS = [1, 2, 3, 4]
RECIPE = TrainingRecipe(steps=120, batch_size=32, schedule="constant", learning_rate=1e-2)
PATIENT = dataclasses.replace(RECIPE, patience=2, look_every=10, learning_rate=3e-2)


def validated(trained, count=4):
    return [m["validation"] for m in measured(MLP, trained.state, DIGITS, TASKS[:count])]


def test_a_network_that_stopped_is_the_one_that_training_so_long_makes():
    trained = train_many(MLP, DIGITS, TASKS, SEEDS, PATIENT)
    assert min(trained.steps) < PATIENT.steps
    assert len(set(trained.steps)) > 1
    for row, (seed, steps) in enumerate(zip(SEEDS, trained.steps, strict=True)):
        shorter = dataclasses.replace(PATIENT, steps=steps, patience=0)
        alone = train_many(MLP, DIGITS, TASKS[:1], [seed], shorter).state
        for name, tensor in alone.items():
            torch.testing.assert_close(trained.state[name][row], tensor[0], atol=2e-5, rtol=1e-4)


def test_no_look_before_the_end_of_patience_was_better():
    trained = train_many(MLP, DIGITS, TASKS[:1], SEEDS[:1], PATIENT)
    last, best = trained.steps[0] + PATIENT.patience * PATIENT.look_every, validated(trained, 1)[0]
    looks = range(PATIENT.look_every, min(last, PATIENT.steps) + 1, PATIENT.look_every)
    reached = [
        validated(
            train_many(MLP, DIGITS, TASKS[:1], SEEDS[:1], dataclasses.replace(PATIENT, steps=n, patience=0)),
            1,
        )[0]
        for n in looks
    ]
    assert best == max(reached)
    assert looks[reached.index(best)] == trained.steps[0]


def test_progress_counts_the_steps_that_stopping_saved():
    told = []
    train_many(MLP, DIGITS, TASKS, SEEDS, PATIENT, told.append)
    assert sum(told) == 4 * PATIENT.steps


def test_bfloat16_products_make_networks_as_good_as_float32():
    found = [
        validated(train_many(MLP, DIGITS, TASKS, SEEDS, dataclasses.replace(RECIPE, precision=precision)))
        for precision in ("float32", "bfloat16")
    ]
    assert min(found[1]) > 0.85
    assert abs(sum(found[0]) - sum(found[1])) / 4 < 0.02


def test_he_initialisation_has_its_variance_and_no_bias():
    wide = Architecture("mlp", {"inputs": 600, "hidden": [400]}, (600,), 10)
    state = initialise(wide, [1, 2], "he_uniform")
    assert not state["1.bias"].any()
    assert float(state["1.weight"].var()) == pytest.approx(2 / 600, rel=0.02)
    assert float(state["1.weight"].abs().max()) <= (6 / 600) ** 0.5
    assert not torch.equal(state["1.weight"][0], state["1.weight"][1])


def test_crops_and_flips_move_images_and_keep_their_pixels():
    height, width = 9, 7
    images = torch.arange(1.0, 1 + height * width).view(1, 1, height, width).expand(400, 2, -1, -1)
    moved = crop_flip(images, torch.Generator().manual_seed(0))
    places = {tuple(image[0].flatten().tolist()) for image in moved}
    assert tuple(images[0, 0].flatten().tolist()) in places
    assert tuple(images[0, 0].flip(1).flatten().tolist()) in places
    assert len(places) > (2 * PADDING + 1) ** 2 / 2
    step = torch.tensor([float(width), 1.0])
    for image in moved:
        assert torch.equal(image[0], image[1])
        inside = image[0] > 0
        down = (image[0][1:] - image[0][:-1])[inside[1:] & inside[:-1]]
        across = (image[0][:, 1:] - image[0][:, :-1])[inside[:, 1:] & inside[:, :-1]]
        assert bool((down == step[0]).all())
        assert bool((across.abs() == step[1]).all())


@pytest.fixture(scope="module")
def pets():
    from weightflow.data.types import from_arrays

    images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    labels = torch.arange(60).numpy() % 3
    return from_arrays("pets", ("cat", "dog", "eel"), images, labels, divisor=1.0, licence="none")


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [({"dropout": 0.5, "hidden": 6, "grid": 4}, {}), ({}, {"augment": "crop_flip", "together": 3})],
    ids=["dropout", "crops and flips"],
)
def test_what_is_random_in_training_depends_on_the_own_seed_alone(pets, arguments, changes):
    cnn = Architecture("cnn", {"widths": [4], **arguments}, (3, 8, 8), 3)
    tasks = [Task("pets", pets.class_names)] * 3
    recipe = TrainingRecipe(steps=6, schedule="constant", **changes)
    many = train_many(cnn, pets, tasks, [1, 2, 3], recipe).state
    # the same layers, nothing left out
    nothing = {"dropout": 1e-12} if "dropout" in arguments else {}
    still = dataclasses.replace(cnn, arguments={**cnn.arguments, **nothing})
    plain = train_many(still, pets, tasks[:1], [3], dataclasses.replace(recipe, augment="none")).state
    one = train_many(cnn, pets, tasks[:1], [3], recipe).state
    for name, tensor in one.items():
        torch.testing.assert_close(tensor[0], many[name][2], atol=2e-5, rtol=1e-4)
    assert any((tensor - plain[name]).abs().max() > 1e-3 for name, tensor in one.items())


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [RECIPE, PATIENT], ids=["to the end", "until it stops"])
def test_an_accelerator_makes_the_networks_that_the_processor_makes(recipe):
    here = train_many(MLP, DIGITS, TASKS, SEEDS, dataclasses.replace(recipe, steps=20))
    there = train_many(MLP, DIGITS, TASKS, SEEDS, dataclasses.replace(recipe, steps=20), device="cuda")
    for name, tensor in here.state.items():
        torch.testing.assert_close(there.state[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    from canon.errors import InputError
    from weightflow.zoo.builders.parallel import build_with
    from weightflow.zoo.recipe import read_recipe

    with pytest.raises(InputError, match="device 'tpu' cannot be used here"):
        build_with("local", read_recipe("iris-small"), tmp_path / "zoo", lambda n: None, 1, "tpu")
    assert not (tmp_path / "zoo").exists()
