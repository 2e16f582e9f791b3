"""Backbones: trained here or taken from libraries; their features are a data set like any other."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import weightflow
from canon.cli import console
from canon.errors import InputError
from canon.io import checkpoint
from weightflow import datasets
from weightflow.backbones import read_backbone, take
from weightflow.backbones.pretrained import last_linear, require_linear_end, skeleton
from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
from weightflow.cli.main import app
from weightflow.export.export import export_zoo
from weightflow.networks.architectures import Architecture
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Record, Zoo, write_zoo

NAMES = ("red thing", "green thing", "blue thing", "grey thing")
TINY = BackboneRecipe(
    arguments={"widths": [4, 6], "stem_stride": 2}, epochs=2, batch_size=16, precision="float32"
)
HEADS = {
    "architecture": {"arguments": {"inputs": 6}},
    "tasks": {
        "sizes": [2, 2], "seen": 3, "validation": 0, "unseen": 0, "held_out": 0, "unseen_classes": 0,
        "unseen_by_backbone": 2, "classes": ["red thing", "green thing", "blue thing", "grey thing"],
    },
    "training": {"steps": 20, "batch_size": 8},
    "base": {"steps": 20},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.load.cache_clear()
        yield
    datasets.load.cache_clear()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images of each of four classes, each brighter in its own colour."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    tint = np.array([[80, 0, 0], [0, 80, 0], [0, 0, 80], [0, 0, 0]])[labels][:, None, None]
    pixels = (rng.integers(0, 120, (160, 8, 8, 3)) + tint).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "things.npz"
    np.savez(path, inputs=pixels, labels=labels, class_names=NAMES)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def backbone(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    BackboneTrainer(datasets.load(images), TINY, path, ["grey thing", "red thing"]).run()
    return path


def test_features_keep_labels_names_and_splits(images, backbone):
    data, features = datasets.load(images), datasets.load(f"{images} through {backbone}")
    assert features.input_shape == (6,)
    assert features.class_names == NAMES
    assert features.name == f"{images} through {backbone}"
    for own, raw in ((features.train, data.train), (features.validation, data.validation)):
        assert torch.equal(own.labels, raw.labels)
        pixels = raw.inputs.stored[raw.inputs.rows[:5]]
        torch.testing.assert_close(
            own.inputs[torch.arange(5)], features.preprocessing(features.features(pixels))
        )
    assert len(features.test) == len(data.test)


def test_features_are_what_enters_the_last_layer(images, backbone):
    found, data = checkpoint.read(backbone), datasets.load(images)
    module = read_backbone(backbone)
    raw = data.train.inputs.stored[:4]
    logits = module(raw) @ found.state["7.weight"].T + found.state["7.bias"]
    whole = TINY_NETWORK(json.loads(found.metadata["classes"]))
    whole.load_state_dict(found.state)
    torch.testing.assert_close(logits, whole.eval()(data.preprocessing(raw)), atol=1e-5, rtol=1e-5)


def TINY_NETWORK(classes):
    from weightflow.networks.architectures import Architecture

    return Architecture("resnet", TINY.arguments, (3, 8, 8), len(classes)).build()


def test_excluded_classes_are_kept_from_the_backbone_and_recorded(images, backbone):
    assert json.loads(checkpoint.read(backbone).metadata["classes"]) == ["green thing", "blue thing"]
    assert datasets.load(f"{images} through {backbone}").excluded == ("grey thing", "red thing")


def test_features_are_computed_once_and_again_for_another_backbone(images, backbone, tmp_path, monkeypatch):
    first = datasets.load(f"{images} through {backbone}")
    other = tmp_path / "other.safetensors"
    BackboneTrainer(datasets.load(images), TINY, other, ["blue thing"]).run()
    assert datasets.load(f"{images} through {other}").folder != first.folder
    datasets.load.cache_clear()
    monkeypatch.setattr("weightflow.datasets.backbone_features._compute", None)
    assert datasets.load(f"{images} through {backbone}").folder == first.folder


def test_heads_are_a_zoo_and_classes_new_to_the_backbone_a_split(images, backbone, tmp_path):
    plan = read_recipe("tina_head", {**HEADS, "dataset": f"{images} through {backbone}"})
    build_zoo(plan, tmp_path / "zoo")
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.manifest["unseen_by_backbone"] == ["red thing", "grey thing"]
    for record in zoo.records:
        new = {"red thing", "grey thing"} & set(record.classes)
        assert len(new) == (2 if record.split == "unseen_by_backbone" else 0)
    assert checkpoint.read(tmp_path / "zoo" / "base.safetensors").state["bias"].shape == (2,)


def test_networks_notice_another_backbone_in_the_place_of_theirs(images, backbone, tmp_path):
    mine = tmp_path / "mine.safetensors"
    shutil.copyfile(backbone, mine)
    settings = {**HEADS, "dataset": f"{images} through {mine}", "shard_size": 1}
    zoo = weightflow.build_zoo("tina_head", tmp_path / "zoo", settings=settings)
    weightflow.evaluate(zoo)
    BackboneTrainer(
        datasets.load(images), dataclasses.replace(TINY, seed=1), mine, ["grey thing", "red thing"]
    ).run()
    datasets.load.cache_clear()
    with pytest.warns(weightflow.InputWarning, match="the backbone of '.*' has changed since"):
        weightflow.evaluate(tmp_path / "zoo")
    with pytest.raises(InputError, match="mine.safetensors is another backbone"):
        export_zoo(Zoo(tmp_path / "zoo"), tmp_path / "programs", format="pt2")
    (tmp_path / "zoo" / "shards" / "00002.safetensors").unlink()
    with pytest.raises(InputError, match="the backbone of '.*' has changed since .* was begun"):
        weightflow.build_zoo("tina_head", tmp_path / "zoo", settings=settings)


def test_a_program_of_a_head_takes_images_as_bytes(images, backbone, tmp_path):
    name = f"{images} through {backbone}"
    head = Architecture("linear_head", {"inputs": 6}, (6,), 2)
    state = {key: tensor.unsqueeze(0) for key, tensor in head.build().state_dict().items()}
    record = Record("head", 0, name, "seen", NAMES[:2], "imported")
    write_zoo(tmp_path / "zoo", {"architecture": head.to_dict(), "dataset": name}, state, [record])
    zoo, data = Zoo(tmp_path / "zoo"), datasets.load(name)
    raw = datasets.load(images).train.inputs.stored[:3]
    (program,) = export_zoo(zoo, tmp_path / "raw", format="pt2")
    module = head.build()
    module.load_state_dict(zoo.network(0))
    expected = module(data.preprocessing(data.features(raw)))
    torch.testing.assert_close(torch.export.load(program).module()(raw), expected, atol=1e-4, rtol=1e-4)
    (program,) = export_zoo(zoo, tmp_path / "features", format="pt2", prepared=True)
    ready = data.preprocessing(data.features(raw))
    torch.testing.assert_close(torch.export.load(program).module()(ready), expected, atol=1e-4, rtol=1e-4)


def test_a_backbone_is_the_same_for_the_same_seed(images, backbone, tmp_path):
    BackboneTrainer(
        datasets.load(images), TINY, tmp_path / "b.safetensors", ["grey thing", "red thing"]
    ).run()
    again, before = checkpoint.read(tmp_path / "b.safetensors").state, checkpoint.read(backbone).state
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_a_training_asked_to_stop_keeps_the_mini_batch_it_was_at(images, backbone, tmp_path):
    def trainer():
        excluded = ["grey thing", "red thing"]
        return BackboneTrainer(datasets.load(images), TINY, tmp_path / "b.safetensors", excluded)

    steps: list[int] = []
    for at in (1, 2):
        stopped = trainer()
        assert stopped.run(lambda n, note: steps.append(n), lambda at=at: sum(steps) == at) is None
        assert (stopped.saved, trainer().done) == (at, at)
    assert trainer().run() is not None
    found, whole = (checkpoint.read(path).state for path in (tmp_path / "b.safetensors", backbone))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_training_that_was_stopped_goes_on_bit_for_bit(images, backbone, tmp_path):
    class Stop(Exception):
        pass

    def stop(steps, note):
        if note:  # an epoch is done
            stopped.append(note)
        elif stopped:
            raise Stop

    stopped: list[str] = []
    trainer = BackboneTrainer(
        datasets.load(images), TINY, tmp_path / "b.safetensors", ["grey thing", "red thing"]
    )
    with pytest.raises(Stop):
        trainer.run(stop)
    again = BackboneTrainer(
        datasets.load(images), TINY, tmp_path / "b.safetensors", ["grey thing", "red thing"]
    )
    assert again.epochs == 1
    again.run()
    assert not again.partial.exists()
    found, whole = (checkpoint.read(path).state for path in (tmp_path / "b.safetensors", backbone))
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    trainer._save()
    with pytest.raises(
        InputError, match="is of another training: other data, classes or settings; delete it"
    ):
        BackboneTrainer(datasets.load(images), TINY, tmp_path / "b.safetensors", ["blue thing"])


def test_a_backbone_by_its_commands(images, backbone, tmp_path, capsys):
    out, settings = str(tmp_path / "b.safetensors"), []
    for key, value in dataclasses.asdict(TINY).items():
        text = json.dumps(value) if key != "arguments" else "{widths=[4, 6], stem_stride=2}"
        settings += ["--set", f"{key}={text}"]
    train = ["backbone", "train", images, "--exclude", "grey thing, red thing", "--out", out, "--json"]
    assert console.run_cli(app, [*train, *settings]) == 0
    assert json.loads(capsys.readouterr().out)["excluded"] == ["grey thing", "red thing"]
    found, whole = checkpoint.read(out).state, checkpoint.read(backbone).state
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert console.run_cli(app, ["backbone", "take", "torchvision:resnet19", "--out", out]) == 2
    assert "torchvision has no model 'resnet19'" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:resnet10t"])
def test_models_of_libraries_with_a_local_checkpoint(model, tmp_path):
    """Of seven classes: the last layer does not matter."""
    pytest.importorskip(model.partition(":")[0])
    whole = skeleton(model, {"fc.weight": torch.zeros(7, 512)}).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    assert take(model, tmp_path / "backbone.safetensors", tmp_path / "weights.pt") == 512
    found = read_backbone(tmp_path / "backbone.safetensors")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    side = found.card.size
    x = nn.functional.interpolate(
        found.card.preprocessing(images), (side, side), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(whole.fc(found(images)), whole(x), atol=1e-4, rtol=1e-4)


def test_what_is_no_backbone_is_explained(images, backbone, tmp_path):
    checkpoint.write(tmp_path / "net.safetensors", {"weight": torch.ones(2)})
    grey = tmp_path / "grey.npz"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(grey, inputs=pixels, labels=np.arange(40) % 2)
    for name, message in {
        f"{images} through {tmp_path}/net.safetensors": "is not a backbone: .* weightflow backbone train",
        f"{images} through {tmp_path}/none.safetensors": "does not exist",
        f"digits through {backbone}": r"examples of shape \(64,\); a backbone sees images",
        f"npz:{grey} through {backbone}": "takes images of 3 channels, found .* make the images colour",
    }.items():
        with pytest.raises(InputError, match=message):
            datasets.load(name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; nearest: resnet1"),
        ("timm:vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224'; nearest: vit_tiny"),
        ("jax:resnet18", "unknown library of models 'jax'; there are: timm, torchvision"),
    ],
)
def test_models_that_are_not_there_are_explained(model, message, tmp_path):
    if model.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=message):
        take(model, tmp_path / "b.safetensors")


def test_a_network_with_another_end_is_no_backbone():
    gated = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Sigmoid())
    with pytest.raises(InputError, match="squeezenet does not end in its last linear layer"):
        require_linear_end("squeezenet", gated, torch.ones(1, 3, 2, 2))
    with pytest.raises(InputError, match="no linear layer at its end"):
        last_linear(nn.Conv2d(3, 2, 1))


def test_data_and_settings_that_do_not_fit_are_refused(images, tmp_path):
    out = tmp_path / "b.safetensors"
    with pytest.raises(InputError, match="a backbone learns from images"):
        BackboneTrainer(datasets.load("digits"), TINY, out).run()
    with pytest.raises(InputError, match="1 classes .* are left"):
        BackboneTrainer(datasets.load(images), TINY, out, NAMES[:3]).run()
    with pytest.raises(InputError, match="has no class 'read thing'; nearest: red thing"):
        BackboneTrainer(datasets.load(images), TINY, out, ["read thing"]).run()
    with pytest.raises(InputError, match="unknown precision 'int8'"):
        BackboneRecipe(precision="int8")
