"""A damaged byte in a file that we wrote is refused, or has no influence on what is read."""

import json
import os
import random
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
from weightflow.zoo.canonicalize import read_frame
from weightflow.zoo.store import Zoo

FLIPS = 30


def call(*arguments):
    return console.guarded(app, [str(argument) for argument in arguments], name="weightflow")


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


def test_verify_refuses_what_is_neither(tmp_path, capsys):
    assert call("verify", tmp_path) == 2
    assert "is no zoo, run or saved generator" in capsys.readouterr().err


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
