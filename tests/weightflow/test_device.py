"""Whatever runs, trains or generates networks on another device gives what the processor gives."""

import numpy as np
import pytest
import torch

import weightflow
from canon.errors import InputError
from canon.io import checkpoint
from tests.second_device import second_device
from weightflow import datasets
from weightflow.backbones import read_backbone
from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
from weightflow.batched.training import train_many
from weightflow.device import computing_on, usable_device
from weightflow.report import make_report
from weightflow.zoo.canonicalize import read_frame


def test_evaluation_is_the_same(zoo):
    here = weightflow.evaluate(zoo)
    with second_device() as device:
        assert weightflow.evaluate(zoo, device=str(device)) == here


def test_a_canonical_zoo_is_the_same(raw_zoo, tmp_path):
    here = weightflow.canonicalize(raw_zoo, tmp_path / "here")
    with second_device() as device:
        there = weightflow.canonicalize(raw_zoo, tmp_path / "there", device=str(device))
    torch.testing.assert_close(there.load(), here.load(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read_frame(there), read_frame(here), rtol=1e-4, atol=1e-5)


def test_generated_networks_are_the_same(run):
    here = weightflow.load(run).sample("three, seven", 3).state
    with second_device() as device:
        there = weightflow.load(run, device=str(device)).sample("three, seven", 3).state
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


def test_trained_networks_are_the_same(zoo, tiny_recipe):
    data, tasks = datasets.load(zoo.dataset), [record.task for record in zoo.records[:3]]
    recipe = tiny_recipe.training
    here = train_many(zoo.architecture, data, tasks, [0, 1, 2], recipe).state
    with second_device() as device, computing_on(device):
        there = train_many(zoo.architecture, data, tasks, [0, 1, 2], recipe).state
    assert {tensor.device.type for tensor in there.values()} == {"cpu"}
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_report_is_the_same(run):
    here = make_report(run, 0, 3)
    with second_device() as device, computing_on(device):
        there = make_report(run, 0, 3)
    for part in ("accuracy", "trained"):
        mine, other = (found["splits"][found["focus"]][part]["mean"] for found in (here, there))
        assert other == pytest.approx(mine, abs=0.01)


def test_a_backbone_is_the_same(tmp_path):
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
    with second_device() as device, computing_on(device):
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
