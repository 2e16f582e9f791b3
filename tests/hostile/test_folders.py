"""A folder from elsewhere (a zoo, a run) runs no code and makes no command write outside what it was told."""

import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import tomli_w

from canon.cli import console
from canon.cli.main import app as canon_app
from canon.errors import InputError
from canon.io.folders import require_apart, writing_into
from tests.hostile import programs
from weightflow import config, datasets
from weightflow.backbones import read_backbone
from weightflow.cli.main import app
from weightflow.zoo import unfinished

APPS = {"canon": canon_app, "weightflow": app}


def call(*arguments):
    return console.run_cli(app, [str(argument) for argument in arguments], name="weightflow")


@pytest.fixture
def folder(raw_zoo, tmp_path, monkeypatch):
    """A copy of a small zoo, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(raw_zoo.path, tmp_path / "zoo")
    return tmp_path / "zoo"


def rewrite(folder, record=(), manifest=()):
    """Change entries of the first record and of the manifest; the hashes are right again."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | dict(record)
    text = "\n".join([json.dumps(first), *lines[1:]]) + "\n"
    (folder / "records.jsonl").write_text(text)
    whole = json.loads((folder / "zoo.json").read_text()) | dict(manifest)
    whole["records_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    whole.pop("sha256", None)
    (folder / "zoo.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "id",
    [
        "../../escaped",
        "/tmp/escaped",
        "a/b",
        "..",
        ".hidden",
        "a\\b",
        "C:escaped",
        "a\x1b[2J",
        "\u202egnp",
        "a\x9b",
        "",
    ],
)
def test_ids_do_not_lead_out_of_a_folder(folder, tmp_path, capsys, id):
    rewrite(folder, {"id": id})
    assert call("export", folder, "--out", tmp_path / "inner" / "files") == 2
    assert "records.jsonl" in (said := capsys.readouterr().err)
    assert "\x1b" not in said
    assert sorted(os.listdir(tmp_path)) == ["zoo"]


def test_a_record_with_a_class_twice_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    rewrite(folder, {"classes": ["one", "two", "one"]})
    assert call("export", folder, "--out", tmp_path / "files") == 2
    assert "the class 'one' occurs twice" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["zoo"]


@pytest.mark.parametrize(
    "command", ["evaluate {zoo}", "zoo card {zoo}", "export {zoo} --out o", "canonicalize {zoo} --out o"]
)
def test_a_backbone_named_in_a_zoo_is_not_run(folder, tmp_path, capsys, command):
    images, labels = np.zeros((100, 8, 8), np.uint8), np.arange(100) % 10
    np.savez(tmp_path / "x.npz", inputs=images, labels=labels, test_inputs=images, test_labels=labels)
    (tmp_path / "made").mkdir()
    programs.hostile(tmp_path / "made", programs.exported())["compiled code"](tmp_path / "evil.pt2")
    named = {"dataset": "npz:x.npz through evil.pt2"}
    rewrite(folder, named, named | {"data": None})
    datasets.load.cache_clear()
    before = sorted(os.listdir())
    assert call(*command.format(zoo=folder).split()) == 2
    assert "evil.pt2 is a program, not a backbone" in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_a_program_is_no_backbone(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"anything")
    with pytest.raises(InputError, match="is a program, not a backbone"):
        read_backbone(tmp_path / "x.pt2")


def test_a_link_in_a_folder_is_not_written_through(folder, tmp_path, capsys):
    (tmp_path / "target").write_text("precious")
    (folder / "README.md").symlink_to(tmp_path / "target")
    assert call("zoo", "card", folder) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert (tmp_path / "target").read_text() == "precious"


def test_links_in_a_run_are_not_written_through(run, tmp_path):
    from canon.io.files import atomic_write
    from weightflow.training.run_store import append_metrics

    (tmp_path / "target").write_text("precious")
    for name in ("report.json", "metrics.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / "target")
    atomic_write(tmp_path / "report.json", "{}")
    with pytest.raises(InputError, match="symbolic link"):
        append_metrics(tmp_path, {"step": 1})
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / "report.json").read_text() == "{}"


def test_a_record_lies_in_a_row_that_there_is(folder, capsys):
    rewrite(folder, {"shard": 10**6})
    assert call("evaluate", folder) == 2
    assert "of shard 1000000, which is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "entry",
    [
        {"shards": [{"file": "../../x", "networks": 20, "sha256": "0" * 64}]},
        {"base": {"id": "base", "file": "../x", "sha256": "0" * 64}},
    ],
)
def test_a_manifest_names_no_file_elsewhere(folder, capsys, entry):
    rewrite(folder, manifest=entry)
    assert call("evaluate", folder) == 2
    assert "zoo.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "canon inspect {0}",
        "canon merge {0} {0} --out o.pt",
        "canon align {0} {0} --out o",
        "canon verify {0} {0}",
        "weightflow evaluate {0}",
        "weightflow sample {0} --classes one,two --out o",
        "weightflow zoo import {0} --dataset digits --out o",
        "weightflow zoo import {1} --dataset digits --out o",
        "weightflow enhance {0} --run {2} --out o.safetensors",
    ],
)
@pytest.mark.parametrize("content", [b"\x08\x0a\x12\x07pytorch" + bytes(100), b"\x80\x02cos\nsystem\n."])
def test_an_onnx_model_is_not_read(line, content, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "x.onnx"
    path.write_bytes(content)
    program, *words = line.format(path, path.parent, run).split()
    assert console.run_cli(APPS[program], words, name=program) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "unexpected" not in said
    assert os.listdir(tmp_path) == ["models"]


def test_words_of_no_class_are_refused_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "words.csv").write_text("class,words\nelephant,a large animal\n")
    assert (
        call("zoo", "build", "digits", "--descriptions", tmp_path / "words.csv", "--out", tmp_path / "zoo")
        == 2
    )
    assert "has no class 'elephant'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["words.csv"]


CANONICALIZE, EXPORT = "canonicalize {zoo} --out {out} -q", "export {zoo} --out {out} -q"
SAMPLE = "sample {run} --classes one,two --out {out} -q"
IMPORT = "zoo import {files} --dataset digits --out {out} -q"
PRETRAINED = "export {run} --format pretrained --out {out}"
TRAIN = "train {canonical} --out {out} -q --set steps=1"
BUILD = "zoo build {recipe} --out {out} -q"


@pytest.fixture
def project(raw_zoo, zoo, run, tiny_recipe, tmp_path, monkeypatch):
    """Copies of what each command reads, by name."""
    monkeypatch.chdir(tmp_path)
    project = {name: tmp_path / "inputs" / name for name in ("zoo", "canonical", "run", "files")}
    for name, source in (("zoo", raw_zoo.path), ("canonical", zoo.path), ("run", run)):
        shutil.copytree(source, project[name])
    call("export", project["zoo"], "--out", project["files"], "--count", 2, "-q")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(config.to_dict(tiny_recipe)))
    return project | {"recipe": recipe}


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys, line, **places):
    capsys.readouterr()
    assert call(*line.format(**places).split()) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    return said


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (CANONICALIZE, "zoo"), (EXPORT, "zoo"), (SAMPLE, "run"), (PRETRAINED, "run"), (TRAIN, "canonical"),
    ],
)  # fmt: skip
def test_results_are_not_written_into_inputs(line, source, project, tmp_path, capsys):
    before = everything(tmp_path)
    for out, what in (
        (project[source], "is the input itself"),
        (project[source] / "new" / "out", "lies within the input"),
        (project[source] / ".." / source, "is the input itself"),
        (project[source].parent, "holds the input"),
    ):
        assert what in refusal(capsys, line, out=out, **project)
        assert everything(tmp_path) == before
        assert not (project[source] / "new").exists()


@pytest.mark.parametrize("name", ["fuse", "enhance"])
def test_networks_are_not_written_over_inputs(name, project, tmp_path, capsys):
    networks = sorted(project["files"].glob("*.safetensors"))[: 2 if name == "fuse" else 1]
    before = everything(tmp_path)
    for out in (networks[0], project["run"] / "checkpoint.safetensors"):
        line = " ".join([name, *map(str, networks), "--run {run} --out {out}"])
        assert " the input" in refusal(capsys, line, out=out, **project)
    assert everything(tmp_path) == before


def test_a_zoo_is_not_built_among_the_images_of_its_data(project, tmp_path, capsys):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="lies within the input"):
        require_apart(
            tmp_path / "images" / "zoo", *datasets.folders_of(f"imagefolder:{tmp_path}/images?size=8")
        )


@pytest.mark.parametrize("line", [CANONICALIZE, EXPORT, SAMPLE, IMPORT, BUILD])
def test_networks_that_do_not_fit_on_the_disk_are_refused_before_the_work(
    line, project, tmp_path, monkeypatch, capsys
):
    usage = shutil._ntuple_diskusage(total=10**6, used=10**6 - 100, free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = refusal(capsys, line, out=tmp_path / "out", **project)
    assert re.search(
        r"out cannot be written: \d+ networks? of \d+ bytes need \d+ more, and 100 bytes are free; ask for",
        said,
    )
    assert not (tmp_path / "out").exists()


def test_any_number_of_networks_is_compared_with_the_disk(project, tmp_path, capsys):
    said = refusal(capsys, SAMPLE + " --count 10000000000000", out=tmp_path / "out", **project)
    assert "10000000000000 networks of " in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", [CANONICALIZE, EXPORT, SAMPLE, IMPORT, PRETRAINED])
def test_the_second_writer_of_a_folder_is_told_of_the_first(line, project, tmp_path, capsys):
    out = tmp_path / "out"
    with writing_into(unfinished.beside(out) if line == SAMPLE else out):
        assert f"another process is writing into {out}; wait" in refusal(capsys, line, out=out, **project)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "recipe.toml"]
    assert call(*line.format(out=out, **project).split()) == 0
    assert not list(tmp_path.rglob("*.new"))


def test_a_folder_that_is_made_and_stays_empty_is_removed(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("a/b/c", "there"):
        with pytest.raises(InputError, match="of the block"), writing_into(tmp_path / name):
            raise InputError("of the block")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("line", [CANONICALIZE, EXPORT])
def test_nothing_is_begun_of_a_zoo_whose_last_shard_is_damaged(line, project, tmp_path, capsys):
    shards = sorted((project["zoo"] / "shards").iterdir())
    assert len(shards) > 1
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1] + b"x")
    assert "is damaged: its SHA-256" in refusal(capsys, line, out=tmp_path / "out", **project)
    assert not (tmp_path / "out").exists()
