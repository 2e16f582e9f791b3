"""Whatever runs, trains or generates networks on another device gives what the processor gives."""

import numpy as np
import pytest
import torch

import weightflow
from canon.cli import console
from canon.errors import InputError
from canon.io import checkpoint
from tests.second_device import another_device
from weightflow import datasets
from weightflow.backbones import read_backbone
from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
from weightflow.batched.training import train_many
from weightflow.cli.main import app
from weightflow.device import computing_on, usable_device
from weightflow.report import make_report
from weightflow.zoo.canonicalize import read_frame
from weightflow.zoo.network_file import write_network


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


@another_device
def test_evaluation_is_the_same(zoo, other):
    here = weightflow.evaluate(zoo)
    with other() as device:
        assert weightflow.evaluate(zoo, device=str(device)) == here


@another_device
def test_a_canonical_zoo_is_the_same(raw_zoo, tmp_path, other):
    here = weightflow.canonicalize(raw_zoo, tmp_path / "here")
    with other() as device:
        there = weightflow.canonicalize(raw_zoo, tmp_path / "there", device=str(device))
    torch.testing.assert_close(there.load(), here.load(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read_frame(there), read_frame(here), rtol=1e-4, atol=1e-5)


@another_device
def test_generated_networks_are_the_same(run, other):
    here = weightflow.load(run).sample("three, seven", 3).state
    with other() as device:
        there = weightflow.load(run, device=str(device)).sample("three, seven", 3).state
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


@another_device
def test_trained_networks_are_the_same(zoo, tiny_recipe, other):
    data, tasks = datasets.load(zoo.dataset), [record.task for record in zoo.records[:3]]
    recipe = tiny_recipe.training
    here = train_many(zoo.architecture, data, tasks, [0, 1, 2], recipe).state
    with other() as device, computing_on(device):
        there = train_many(zoo.architecture, data, tasks, [0, 1, 2], recipe).state
    assert {tensor.device.type for tensor in there.values()} == {"cpu"}
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@another_device
def test_a_report_is_the_same(run, other):
    here = make_report(run, 0, 3)
    with other() as device, computing_on(device):
        there = make_report(run, 0, 3)
    for part in ("accuracy", "trained"):
        mine, other = (found["splits"][found["focus"]][part]["mean"] for found in (here, there))
        assert other == pytest.approx(mine, abs=0.01)


@another_device
def test_commands_on_networks_are_the_same(run, zoo, tmp_path, other):
    """fuse, enhance and transfer, as they are called."""
    record = zoo.records[0]
    given = tmp_path / "given.safetensors"
    write_network(given, zoo.architecture, {n: t[:1] for n, t in zoo.load([0]).items()}, record.classes)
    arguments = {
        "fuse": ["fuse", given, given, "--run", run, "--strength", "0.5", "--out"],
        "enhance": ["enhance", given, "--run", run, "--strength", "0.5", "--out"],
    }
    classes = ", ".join(record.classes)
    transfer = [
        "transfer",
        zoo.path,
        "--dataset",
        "digits",
        "--classes",
        classes,
        "--epochs",
        "0,1",
        "--count",
        2,
    ]
    for name, command in arguments.items():
        assert call(*command, tmp_path / f"{name}.pt") == 0
    assert call(*transfer, "--quiet") == 0
    with other() as device:
        for name, command in arguments.items():
            assert call(*command, tmp_path / f"{name}-there.pt", "--device", device) == 0
        assert call(*transfer, "--quiet", "--device", device) == 0
    for name in arguments:
        here, there = (
            torch.load(tmp_path / f"{name}{where}.pt", weights_only=True) for where in ("", "-there")
        )
        torch.testing.assert_close(dict(there), dict(here), rtol=1e-4, atol=1e-5)


@another_device
def test_a_backbone_is_the_same(tmp_path, other):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", inputs=images, labels=np.arange(48) % 3)
    data = datasets.load(f"npz:{tmp_path / 'images.npz'}")
    recipe = BackboneRecipe(
        architecture="resnet",
        arguments={"widths": [4, 4]},
        epochs=2,
        batch_size=12,
        augment="none",
        precision="float32",
    )
    BackboneTrainer(data, recipe, tmp_path / "here.safetensors").run()
    with other() as device, computing_on(device):
        asked = iter([False, True])
        trainer = BackboneTrainer(data, recipe, tmp_path / "there.safetensors")
        assert trainer.run(stop=lambda: next(asked)) is None
        BackboneTrainer(data, recipe, tmp_path / "there.safetensors").run()
        features = read_backbone(tmp_path / "there.safetensors")(torch.from_numpy(images))
    here, there = (checkpoint.read(tmp_path / f"{name}.safetensors").state for name in ("here", "there"))
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
    again = read_backbone(tmp_path / "here.safetensors")(torch.from_numpy(images))
    torch.testing.assert_close(features, again, rtol=1e-3, atol=1e-3)


def test_a_device_that_is_not_there_is_refused_and_auto_finds_one():
    with pytest.raises(InputError, match="device 'cuda:9' cannot be used here"):
        usable_device("cuda:9")
    with pytest.raises(InputError, match="device 'fpga' cannot be used here"):
        usable_device("fpga")
    expected = torch.accelerator.is_available()
    assert (usable_device("auto").type != "cpu") == expected
