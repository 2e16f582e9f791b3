"""A damaged byte in a file that we wrote is refused, or has no influence on what is read."""

import dataclasses
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from canon.cli import console
from canon.errors import InputError
from canon.io import checkpoint
from canon.io.digests import with_digest
from weightflow.cli.main import app
from weightflow.training import run_store
from weightflow.training.run_store import read_report
from weightflow.training.trainer import start
from weightflow.zoo.canonicalize import read_frame
from weightflow.zoo.store import Zoo

FLIPS = 30


def call(*arguments):
    return console.run_cli(app, [str(argument) for argument in arguments], name="weightflow")


def read_zoo(folder):
    zoo = Zoo(folder)
    return zoo.manifest, zoo.records, zoo.load(), read_frame(zoo)


def read_run(folder):
    header = run_store.read_header(folder)
    weights = run_store.read_checkpoint(folder, header)
    state = checkpoint.read(folder / "state.safetensors")
    return repr(header), weights.average, weights.frame, state.state, read_report(folder)["splits"]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def flips(path, count):
    """The file with one bit flipped, at `count` places: all parts of it are met, the header as often as the data."""
    content, draw = path.read_bytes(), random.Random(path.name)
    for number in range(count):
        limit = len(content) if number % 2 else min(len(content), 3000)
        place = draw.randrange(limit)
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        yield place
    path.write_bytes(content)


def check(path, read, folder, count=FLIPS):
    before = read(folder)
    for place in flips(path, count):
        try:
            found = read(folder)
        except InputError:
            continue
        assert same(found, before), f"byte {place} of {path.name} was used"


@pytest.mark.parametrize(
    "name", ["zoo.json", "records.jsonl", "frame.safetensors", "shards/00000.safetensors"]
)
def test_damage_of_a_zoo_is_not_used(zoo, tmp_path, name):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    check(tmp_path / "zoo" / name, read_zoo, tmp_path / "zoo")


@pytest.mark.parametrize(
    "name", ["config.toml", "layout.json", "checkpoint.safetensors", "state.safetensors", "report.json"]
)
def test_damage_of_a_run_is_not_used(run, tmp_path, name):
    shutil.copytree(run, tmp_path / "run")
    report = json.dumps(
        with_digest(
            {"splits": {"seen": {"accuracy": {"mean": 0.5}, "trained": {"mean": 0.5}, "chance": 0.1}}}
        ),
        indent=1,
    )
    (tmp_path / "run" / "report.json").write_text(report)
    check(tmp_path / "run" / name, read_run, tmp_path / "run")


def test_damage_of_a_network_is_not_used(tmp_path):
    checkpoint.write(
        tmp_path / "n.safetensors", {"w": torch.randn(5, 4), "b": torch.zeros(3)}, {"classes": '["a"]'}
    )

    def read(folder):
        found = checkpoint.read(folder / "n.safetensors")
        return found.state, found.metadata.get("classes")

    check(tmp_path / "n.safetensors", read, tmp_path, 300)


def test_files_of_others_are_read_as_they_are(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(3)}, tmp_path / "x.safetensors", {"a": "b"})
    found = checkpoint.read(tmp_path / "x.safetensors")
    assert found.metadata == {"a": "b"}
    checkpoint.write(tmp_path / "y.safetensors", found)
    assert checkpoint.read(tmp_path / "y.safetensors").metadata == {"a": "b"}


@pytest.mark.parametrize("name", ["records.jsonl", "frame.safetensors", "shards/00000.safetensors"])
@pytest.mark.parametrize("missing", [False, True])
def test_verify_looks_at_every_file_of_a_zoo(zoo, tmp_path, capsys, name, missing):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    assert call("verify", tmp_path / "zoo") == 0
    path = tmp_path / "zoo" / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.unlink() if missing else path.write_bytes(content)
    capsys.readouterr()
    for command in (["verify"], ["zoo", "verify"]):
        assert call(*command, tmp_path / "zoo") == 1
        assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["config.toml", "layout.json", "checkpoint.safetensors", "state.safetensors"]
)
def test_verify_looks_at_every_file_of_a_run(run, tmp_path, capsys, name):
    shutil.copytree(run, tmp_path / "run")
    assert call("verify", tmp_path / "run") == 0
    path = tmp_path / "run" / name
    content = path.read_bytes()
    damaged = content.replace(b"1", b"2", 1) if path.suffix != ".safetensors" else content[:-1] + b"\x07"
    assert damaged != content
    path.write_bytes(damaged)
    assert call("verify", tmp_path / "run") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "weightflow-zoo-1"}'])
def test_a_damaged_manifest_is_damage(zoo, tmp_path, capsys, content):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    (tmp_path / "zoo" / "zoo.json").write_bytes(content)
    for command in (["verify"], ["zoo", "verify"]):
        assert call(*command, tmp_path / "zoo") == 1
        assert "zoo.json" in capsys.readouterr().out


def test_verify_compares_the_recipe_that_a_building_zoo_notes(raw_zoo, tmp_path):
    shutil.copytree(raw_zoo.path, tmp_path / "zoo")
    assert call("verify", tmp_path / "zoo") == 0
    path = tmp_path / "zoo" / "recipe.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    assert call("verify", tmp_path / "zoo") == 1


def test_verify_misses_the_state_of_a_run(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").unlink()
    assert call("verify", tmp_path / "run") == 1
    assert "state.safetensors is missing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "state.safetensors"])
def test_verify_misses_that_files_are_of_two_runs(name, run, zoo, tiny_config, tmp_path, capsys):
    model = dataclasses.replace(tiny_config.model, width=8)
    start(zoo, dataclasses.replace(tiny_config, steps=1, model=model), tmp_path / "other").run()
    assert call("verify", tmp_path / "other") == 0
    shutil.copytree(run, tmp_path / "run")
    shutil.copyfile(tmp_path / "other" / name, tmp_path / "run" / name)
    assert call("verify", tmp_path / "run") == 1
    assert f"{name} is of another run" in capsys.readouterr().out


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("line", "instead"), [("width = 16", "width = 32"), ("depth = 2", "depth = 3")])
def test_verify_misses_that_the_settings_are_of_another_model(saved, line, instead, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run"
    if saved:
        folder = tmp_path / "saved"
        assert call("export", tmp_path / "run", "--format", "pretrained", "--out", folder) == 0
    assert call("verify", folder) == 0
    config = (folder / "config.toml").read_text()
    assert line in config
    without_digest = re.sub(r"(?m)^sha256 = .*\n", "", config)
    (folder / "config.toml").write_text(without_digest)
    assert call("verify", folder) == 0
    (folder / "config.toml").write_text(without_digest.replace(line, instead))
    capsys.readouterr()
    assert call("verify", folder) == 1
    assert "the model of the run's settings" in capsys.readouterr().out


def test_verify_refuses_what_is_neither(tmp_path, capsys):
    assert call("verify", tmp_path) == 2
    assert "is an empty folder, not a zoo, a run or a saved generator" in capsys.readouterr().err


def test_a_damaged_shard_of_an_unfinished_zoo_is_trained_again(raw_zoo, tiny_recipe, tmp_path):
    from weightflow.zoo.builders.local import build_zoo

    shutil.copytree(raw_zoo.path, tmp_path / "zoo")
    path = tmp_path / "zoo" / "shards" / "00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    os.unlink(tmp_path / "zoo" / "zoo.json")
    assert build_zoo(tiny_recipe, tmp_path / "zoo") == Zoo(raw_zoo.path).manifest["shards"][1]["networks"]
    assert path.read_bytes() == whole
    assert Path(tmp_path / "zoo" / "zoo.json").read_bytes() == (raw_zoo.path / "zoo.json").read_bytes()


def test_a_frame_that_is_lost_is_missed(zoo, tiny_config, tmp_path):
    from weightflow.training import trainer

    shutil.copytree(zoo.path, tmp_path / "zoo")
    (tmp_path / "zoo" / "frame.safetensors").unlink()
    with pytest.raises(InputError, match="frame.safetensors does not exist"):
        trainer.start(Zoo(tmp_path / "zoo"), tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_that_is_lost_is_missed(zoo, run, tmp_path):
    from weightflow.training import trainer

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").unlink()
    with pytest.raises(InputError, match="state.safetensors does not exist"):
        trainer.resume(zoo, tmp_path / "run")


@pytest.mark.parametrize("name", ["a.pt", "wrapped.pt"])
def test_damage_of_a_pytorch_file_is_not_used(tmp_path, name):
    state = {"w": torch.randn(50, 40), "b": torch.zeros(3)}
    checkpoint.write(tmp_path / "n.pt", state, {"classes": '["a"]'})
    torch.save({"model": torch.load(tmp_path / "n.pt"), "epoch": 3}, tmp_path / "wrapped.pt")
    path = (tmp_path / "n.pt").rename(tmp_path / "a.pt").with_name(name)

    def read(folder):
        found = checkpoint.read(path)
        return found.state, found.metadata.get("classes")

    check(path, read, tmp_path, 300)


def test_pytorch_files_without_sums_are_read_as_they_are(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(checkpoint.read(tmp_path / "x.pt").state["w"], torch.ones(3))


def test_figures_of_other_weights_have_no_place_in_the_card(run, tmp_path):
    from weightflow.generator.generator import Flow

    shutil.copytree(run, tmp_path / "run")
    split = {"accuracy": {"mean": 0.987}, "trained": {"mean": 0.5}, "chance": 0.1}
    flow = Flow(tmp_path / "run")
    for weights, edited, shown in (
        (flow.identity, False, True),
        (flow.identity, True, False),
        ("0" * 64, False, False),
    ):
        report = {"splits": {"seen": split}, "weights": weights}
        text = json.dumps(report if edited else with_digest(report))
        (tmp_path / "run" / "report.json").write_text(text)
        assert ("98.7" in str(flow.generate_model_card())) == shown


def test_verify_looks_at_the_vectors_of_a_saved_generator(tiny_config, zoo, tmp_path):
    import dataclasses

    import numpy as np

    from weightflow.generator.generator import Flow, save_generator
    from weightflow.training import trainer

    names = sorted({name for record in zoo.records for name in record.classes})
    table = {"names": np.array(names), "embeddings": np.random.default_rng(0).normal(size=(len(names), 6))}
    np.savez(tmp_path / "v.npz", **table)
    config = dataclasses.replace(tiny_config, encoder=f"table:{tmp_path / 'v.npz'}", steps=1)
    trainer.start(zoo, config, tmp_path / "run").run()
    save_generator(Flow(tmp_path / "run"), tmp_path / "saved")
    assert call("verify", tmp_path / "saved") == 0
    table["embeddings"][0, 0] += 1
    np.savez(tmp_path / "saved" / "vectors.npz", **table)
    assert call("verify", tmp_path / "saved") == 1
    (tmp_path / "saved" / "vectors.npz").unlink()
    assert call("verify", tmp_path / "saved") == 1
    shutil.copy(tmp_path / "v.npz", tmp_path / "saved" / "vectors.npz")
    assert call("verify", tmp_path / "saved") == 0
    (tmp_path / "saved" / "config.json").write_text('{"architecture": {}}')
    assert call("verify", tmp_path / "saved") == 1


def test_data_of_equal_size_and_date_are_decoded_again(tmp_path, monkeypatch):
    import numpy as np

    from weightflow import datasets

    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    path, labels = tmp_path / "x.npz", np.arange(40) % 2
    found = []
    for value in (0.0, 1.0):
        np.savez(path, inputs=np.full((40, 3), value, np.float32) + labels[:, None], labels=labels)
        os.utime(path, ns=(10**18, 10**18))
        datasets.load.cache_clear()
        found.append(float(datasets.load(f"npz:{path}").preprocessing.mean[0]))
    assert found[1] - found[0] == pytest.approx(1)
