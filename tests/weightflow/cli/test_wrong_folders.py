"""A folder or file of another kind than a command takes: one line that says what it is and what takes it."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from canon.io import checkpoint
from tests.weightflow.cli.test_commands import call
from weightflow.export.export import export_zoo
from weightflow.folders import recognise
from weightflow.generator.generator import Flow, save_generator

WHAT = {
    "zoo": "a zoo",
    "canonical": "a canonical zoo",
    "run": "a run",
    "generator": "a saved generator",
    "population": "a population of generated networks",
    "files": "a folder of exported networks",
    "programs": "a folder of exported programs",
    "unfinished": "a zoo that is not finished",
    "backbone.safetensors": "a backbone",
    "images": "a folder of images",
    "splits": "a folder of images",
    "flat": "a folder of images without classes",
    "huggingface": "a Hugging Face model",
    "checkpoints": "a folder of checkpoints",
    "folders": "a folder of checkpoints",
    "other": "a folder of other files (such as notes.md)",
    "own": "a folder of other files (such as config.toml)",
    "empty": "an empty folder",
    "weights.pt": "a file of weights",
    "images.zip": "an archive",
    "program.pt2": "a program",
    "notes.md": "a file of another kind",
}
ADVICE = {
    "zoo": "weightflow canonicalize {path}",
    "canonical": "weightflow train {path}",
    "run": "--out {path} --resume",
    "generator": "weightflow sample {path}",
    "population": "weightflow evaluate",
    "files": "weightflow zoo import {path}",
    "checkpoints": "weightflow zoo import {path}",
    "images": "imagefolder:{path}",
    "huggingface": "canon align",
    "backbone.safetensors": "'NAME through {path}'",
}
TAKES = {
    "train": (["train", "{path}", "--out", "{new}"], ("zoo", "canonical")),
    "canonicalize": (["canonicalize", "{path}", "--out", "{new}"], ("zoo", "canonical", "population")),
    "sample": (["sample", "{path}", "--classes", "one, two", "--out", "{new}"], ("run", "generator")),
    "report": (["report", "{path}", "--limit", "1"], ("run",)),
    "evaluate": (["evaluate", "{path}"], ("zoo", "canonical", "population")),
    "inspect": (["zoo", "inspect", "{path}"], ("zoo", "canonical", "population")),
    "export": (["export", "{path}", "--out", "{new}"], ("zoo", "canonical", "population")),
    "pretrained": (["export", "{path}", "--format", "pretrained", "--out", "{new}"], ("run", "generator")),
    "verify": (["verify", "{path}"], ("zoo", "canonical", "population", "run", "generator")),
    "import": (
        ["zoo", "import", "{path}", "--dataset", "digits", "--out", "{new}"],
        ("files", "checkpoints", "folders", "huggingface"),
    ),
    "build": (["zoo", "build", "{path}", "--out", "{new}"], ()),
    "fuse": (["fuse", "{run}", "--run", "{path}", "--out", "{new}.pt"], ("run", "generator")),
}
SAID_OTHERWISE = {
    ("export", "run"),
    ("export", "generator"),
    ("report", "generator"),
    ("verify", "own"),
    ("build", "nowhere"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, raw_zoo, zoo, run):
    folder = tmp_path_factory.mktemp("kinds")
    flow = Flow(run)
    found = {"zoo": raw_zoo.path, "canonical": zoo.path, "run": run}
    found |= {name: folder / name for name in WHAT if name not in found}
    save_generator(flow, found["generator"])
    assert call("sample", run, "--classes", "one, two", "--out", found["population"]) == 0
    for kind, format in (("files", "safetensors"), ("programs", "pt2")):
        export_zoo(zoo, found[kind], 1, format)
    picture = Image.fromarray(np.zeros((8, 8), np.uint8))
    for place in ("images/a", "images/b", "splits/train/a", "splits/test/a", "flat"):
        (folder / place).mkdir(parents=True)
        picture.save(folder / place / "1.png")
    network = zoo.network(0)
    for file in ("checkpoints/a.pt", "folders/run1/last.ckpt", "weights.pt", "huggingface/model.safetensors"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(folder / file, network)
    (folder / "huggingface" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    checkpoint.write(folder / "backbone.safetensors", network, {"backbone": "{}"})
    (folder / "unfinished" / "shards").mkdir(parents=True)
    (folder / "unfinished" / "recipe.json").write_text("{}")
    for name in ("empty", "other", "own"):
        (folder / name).mkdir()
    (folder / "own" / "config.toml").write_text("title = 'a trainer of my own'")
    for file in ("other/notes.md", "notes.md"):
        (folder / file).write_text("notes")
    (folder / "program.pt2").write_bytes(b"PK")
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    (folder / "images.zip").write_bytes(archive.getvalue())
    return found


def test_every_kind_is_recognised(places, tmp_path):
    found = {name: recognise(path) for name, path in places.items()}
    assert {name: one.what for name, one in found.items()} == WHAT
    for name, advice in ADVICE.items():
        assert advice.format(path=places[name]) in found[name].advice
    assert recognise(tmp_path / "nowhere") is None


@pytest.mark.parametrize("command", TAKES)
def test_what_a_command_cannot_take_is_named(places, run, tmp_path, capsys, command):
    arguments, takes = TAKES[command]
    for name, path in {**places, "nowhere": tmp_path / "nowhere"}.items():
        if name in takes or (command, name) in SAID_OTHERWISE:
            continue
        code = call(*(a.format(path=path, run=run, new=tmp_path / "new") for a in arguments))
        error = capsys.readouterr().err
        assert code == 2, (name, error)
        named = WHAT.get(name, "there is no such file or folder")
        assert named in error, (name, error)
        if advice := ADVICE.get(name):
            assert advice.format(path=path) in " ".join(error.split()), (name, error)
        assert not (tmp_path / "new").exists()


def test_a_saved_generator_has_no_report(places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("report", places["generator"], "--limit", 1, "--out", "new") == 2
    assert f"weightflow sample {places['generator']}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
