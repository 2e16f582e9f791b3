"""Whatever a file holds: exit code 0 or 2, one line, no code run, nothing written but what was asked for."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

import canon
from canon.cli import console
from canon.cli.main import app as canon_app
from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import sha256
from tests.hostile import mutations, programs
from weightflow import config
from weightflow.backbones import BackboneCard, write_backbone
from weightflow.cli.main import app as weightflow_app
from weightflow.data import decoded_cache
from weightflow.data.types import Preprocessing
from weightflow.datasets import load
from weightflow.networks.architectures import Architecture
from weightflow.zoo.network_file import write_network

APPS = {"canon": canon_app, "weightflow": weightflow_app}
SECONDS = 20
SEED = os.environ.get("HOSTILE_SEED", "")
"""Other mutations than those of every run."""
TINY = "--set steps=1 --set batch_size=4 --set model.width=8 --set model.depth=1 --set model.heads=1 --set behaviour.images=4"


def call(line, **places):
    program, *arguments = (part.format(**places) for part in line.split())
    return console.run_cli(APPS[program], arguments, name=program)


class Arrays:
    """Mutations of a .npz file: of its bytes, and of its arrays."""

    def __call__(self, content, draw):
        if draw.random() < 0.4:
            return mutations.of_bytes(content, draw)
        with np.load(io.BytesIO(content)) as file:
            arrays = dict(file)
        key = draw.choice(sorted(arrays))
        old = arrays[key]
        arrays[key] = draw.choice(
            [
                lambda: old.astype(object), lambda: old.astype(np.complex64) if old.dtype.kind in "fiu" else old, lambda: np.array(3),
                lambda: old[:0], lambda: old.astype("V4") if False else np.zeros(len(old), "V4"), lambda: np.array(["x"] * len(old)),
                lambda: old.reshape(-1), lambda: old[..., None, None, None], lambda: np.full(old.shape, np.nan), lambda: np.full(old.shape, -5),
                lambda: np.full(old.shape, 2**62), lambda: np.zeros(old.shape, [("a", "i4")]), lambda: np.array([b"x"]), lambda: old.astype("M8[s]") if old.dtype.kind in "iu" else old,
            ]
        )()  # fmt: skip
        if draw.random() < 0.2:
            arrays.pop(draw.choice(sorted(arrays)))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def safetensors_header(content, draw):
    if draw.random() < 0.4:
        return mutations.of_bytes(content, draw)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if draw.random() < 0.7 and "__metadata__" in header:
        header["__metadata__"].pop("file_sha256", None)
    text = json.dumps(mutations.of_value(header, draw)).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def program_json(content, draw):
    parts = programs.members(content)
    name = draw.choice([programs.MODEL, programs.WEIGHTS, programs.CONSTANTS])
    if draw.random() < 0.3:
        return mutations.of_bytes(content, draw)
    parts[name] = mutations.of_json(parts[name], draw)
    buffer = io.BytesIO()
    programs.write(buffer, parts)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory, raw_zoo, zoo, run):
    """One small real file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    network = programs.network()
    state = {name: t.detach() for name, t in network.state_dict().items()}
    torch.save(state, folder / "a.pt")
    optimizer = torch.optim.Adam(network.named_parameters())
    network(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    traced = canon.trace(programs.network(), torch.zeros(2, 5))
    moved = canon.Transform(traced, canon.random(traced, torch.Generator().manual_seed(0)))
    moved.save(folder / "t.safetensors")
    checkpoint.write(folder / "a.safetensors", state, {"classes": '["a", "b", "c"]'})
    (folder / "a.pt2").write_bytes(programs.exported())
    (folder / "s.json").write_text(canon.trace(network, torch.zeros(2, 5)).to_json())
    (folder / "nets.py").write_text(
        "from tests.hostile.programs import network\nimport torch\ndef build():\n    return network(), (torch.zeros(4, 5),)\n"
    )
    torch.manual_seed(1)
    np.savez(
        folder / "x.npz",
        x=np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32),
        y=np.arange(20) % 3,
    )
    images = np.random.default_rng(0).integers(0, 255, (100, 8, 8)).astype(np.uint8)
    np.savez(
        folder / "images.npz", inputs=images, labels=np.arange(100) % 4, class_names=np.array(list("abcd"))
    )
    names = sorted({name for record in zoo.records for name in record.classes})
    vectors = np.random.default_rng(0).normal(size=(len(names), 6)).astype(np.float32)
    np.savez(folder / "vectors.npz", names=np.array(names), embeddings=vectors)
    (folder / "descriptions.csv").write_text("class,words\none,a single one,1\ntwo,a pair\n")
    colour = np.repeat(np.repeat(images[..., None], 2, 1), 3, 3)
    np.savez(folder / "colour.npz", inputs=colour, labels=np.arange(100) % 4)
    small = Architecture(
        "resnet", {"widths": [4], "blocks": 1, "stem_stride": 2}, colour[0].transpose(2, 0, 1).shape, 4
    )
    write_backbone(
        folder / "backbone.safetensors",
        small.build().state_dict(),
        BackboneCard(Preprocessing(255.0, (0.5,) * 3, (0.2,) * 3)),
        {"architecture": small.to_json()},
    )
    row = zoo.records[0]
    state = {name: tensor.unsqueeze(0) for name, tensor in zoo.network(0).items()}
    own = dataclasses.replace(zoo.architecture, classes=len(row.classes))
    write_network(folder / "digits.safetensors", own, state, row.classes)
    heads = {
        "dataset": f"npz:{folder}/colour.npz through backbone.safetensors",
        "architecture": {"name": "linear_head", "arguments": {"inputs": 4}},
        "tasks": {"sizes": [2, 3], "seen": 2, "validation": 1, "unseen": 1},
        "training": {"steps": 1, "batch_size": 4},
    }
    (folder / "heads.toml").write_text(tomli_w.dumps(heads))
    absolute = f"npz:{folder}/colour.npz through {folder}/backbone.safetensors"
    (folder / "own-heads.toml").write_text(tomli_w.dumps(heads | {"dataset": absolute}))
    (folder / "networks").mkdir()
    for number in range(2):
        write_network(folder / "networks" / f"n{number}.safetensors", own, state, row.classes)
    (folder / "classes.csv").write_text(
        "".join(f"n{n}.safetensors,{','.join(row.classes)}\n" for n in range(2))
    )
    (folder / "classes.json").write_text(
        json.dumps({f"n{n}.safetensors": list(row.classes) for n in range(2)})
    )
    for number in range(36):
        place = folder / "pictures" / ("train", "test")[number % 3 == 2] / "abc"[number // 12]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colour[number]).save(place / f"{number}.png")
    shutil.make_archive(str(folder / "pictures"), "zip", folder / "pictures")
    (folder / "prompts.txt").write_text("one, two\nthree = a | b, four\n")
    (folder / "recipe.toml").write_bytes(
        tomli_w.dumps(
            {
                "dataset": "digits",
                "architecture": {"name": "mlp", "arguments": {"inputs": 64, "hidden": [4]}},
                "tasks": {"sizes": [2, 3], "seen": 2, "validation": 1, "unseen": 1},
                "training": {"steps": 2, "batch_size": 4},
            }
        ).encode()
    )
    return folder


CANON = {
    "pickle": ("a.pt", mutations.of_pickle, "canon inspect {file}"),
    "pickle aligned": (
        "a.pt",
        mutations.of_pickle,
        "canon align {files}/a.pt {file} --model {files}/nets.py:build --out {out}.pt",
    ),
    "safetensors": ("a.safetensors", safetensors_header, "canon inspect {file}"),
    "places": ("a.safetensors", mutations.of_places, "canon merge {files}/a.pt {file} --out {out}.pt"),
    "tensors": ("a.safetensors", mutations.of_tensors, "canon merge {files}/a.pt {file} --out {out}.pt"),
    "transform": ("t.safetensors", mutations.of_tensors, "canon apply {file} {files}/a.pt --out {out}.pt"),
    "optimizer": (
        "optimizer.pt",
        mutations.of_pickle,
        "canon apply {files}/t.safetensors {file} --kind optimizer --out {out}.pt",
    ),
    "program": ("a.pt2", program_json, "canon inspect {file}"),
    "spec": (
        "s.json",
        mutations.of_json,
        "canon align {files}/a.pt {files}/a.pt --spec {file} --out {out}.pt",
    ),
    "examples": (
        "x.npz",
        Arrays(),
        "canon barrier {files}/a.pt {files}/a.pt --model {files}/nets.py:build --data {file} --points 3",
    ),
}
WEIGHTFLOW = {
    "network": (
        "digits.safetensors",
        mutations.of_tensors,
        "weightflow enhance {file} --run {run} --out {out}.safetensors",
    ),
    "network header": (
        "digits.safetensors",
        safetensors_header,
        "weightflow enhance {file} --run {run} --out {out}.safetensors",
    ),
    "backbone": (
        "backbone.safetensors",
        mutations.of_tensors,
        "weightflow zoo build {files}/heads.toml --out {out} -q",
    ),
    "prompts": ("prompts.txt", mutations.of_bytes, "weightflow sample {run} --prompts {file} --out {out} -q"),
    "recipe": ("recipe.toml", mutations.of_toml, "weightflow zoo build {file} --out {out} -q"),
    "data": (
        "images.npz",
        Arrays(),
        "weightflow zoo build {files}/recipe.toml --set dataset=npz:{file} --out {out} -q",
    ),
    "archive of pictures": (
        "pictures.zip",
        mutations.of_archive,
        "weightflow zoo build {files}/recipe.toml --set dataset=imagefolder:{file}?size=4 --out {out} -q",
    ),
    "recipe of heads": ("own-heads.toml", mutations.of_toml, "weightflow zoo build {file} --out {out} -q"),
    "vectors": (
        "vectors.npz",
        Arrays(),
        "weightflow train {zoo} --set encoder=table:{file} --out {out} -q " + TINY,
    ),
    "descriptions": (
        "descriptions.csv",
        mutations.of_bytes,
        "weightflow zoo build {files}/recipe.toml --descriptions {file} --out {out} -q",
    ),
    "table of classes": (
        "classes.csv",
        mutations.of_bytes,
        "weightflow zoo import {files}/networks --dataset digits --classes-from {file} --out {out} -q",
    ),
    "JSON of classes": (
        "classes.json",
        mutations.of_json,
        "weightflow zoo import {files}/networks --dataset digits --classes-from {file} --out {out} -q",
    ),
}


def check(kind, table, files, tmp_path, monkeypatch, capsys, count, **places):
    name, mutate, line = table[kind]
    monkeypatch.chdir(tmp_path)
    content = (files / name).read_bytes()
    place = tmp_path / name
    unexpected = []
    for number in range(count):
        draw = random.Random(f"{SEED}{kind} {number}")
        place.write_bytes(mutations.drawn(mutate, content, draw))
        load.cache_clear()
        begun = time.monotonic()
        code = call(line, file=place, files=files, out=tmp_path / "out", **places)
        said = capsys.readouterr()
        problem = examine(code, said, time.monotonic() - begun)
        for left in Path(tmp_path).iterdir():
            if left == place:
                continue
            if code != 0 and not (left / ".unfinished").exists():
                problem = problem or f"left {left.name}"
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if problem:
            unexpected.append(f"{number}: {problem}: {said.err.strip()[-300:]}")
    assert not unexpected, "\n".join(unexpected)


def examine(code, said, seconds):
    failed = code == 1 and ("not finite" in said.err or " is " in said.out)  # the work; `verify` found damage
    if code not in (0, 2) and not failed:
        return f"exit code {code}"
    if "(unexpected" in said.err or "Traceback" in said.err:
        return "unexpected"
    if any(not c.isprintable() for c in (said.err + said.out).replace("\n", "").replace("\r", "")):
        return "raw control characters"
    if len(said.err) > 20_000:
        return f"{len(said.err)} characters of talk"
    if os.path.exists("canary") or os.path.exists("/tmp/escaped"):
        return "code ran, or a file was written outside"
    return f"{seconds:.0f} seconds" if seconds > SECONDS else ""


COUNTS = pytest.mark.parametrize("count", [15, pytest.param(500, marks=pytest.mark.slow)])


@COUNTS
@pytest.mark.parametrize("kind", CANON)
def test_mutated_files_of_canon(kind, count, files, tmp_path, monkeypatch, capsys):
    check(kind, CANON, files, tmp_path, monkeypatch, capsys, count)


@COUNTS
@pytest.mark.parametrize("kind", WEIGHTFLOW)
def test_mutated_files_of_weightflow(kind, count, files, zoo, run, tmp_path, monkeypatch, capsys):
    check(kind, WEIGHTFLOW, files, tmp_path, monkeypatch, capsys, count, run=run, zoo=zoo.path)


def refreshed(path, content):
    """The table without its digest, so that what it says is looked at."""
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    zoo = path.parent if path.name == "records.jsonl" else path.parent.parent
    if path.name == "records.jsonl" or path.parent.name == "shards":
        manifest = json.loads((zoo / "zoo.json").read_text())
        manifest.pop("sha256", None)
        if path.name == "records.jsonl":
            manifest["records_sha256"] = found
        else:
            manifest["shards"][int(path.stem)]["sha256"] = found
        (zoo / "zoo.json").write_text(json.dumps(manifest))


def without_digest(content):
    if content[:1] == b"{" and b"\n{" not in content[:5000]:
        table = json.loads(content)
        table.pop("sha256", None)
        return json.dumps(table).encode()
    return b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"sha256"))


IN_FOLDERS = {
    "zoo.json": ("zoo", "zoo.json", mutations.of_json, "weightflow evaluate {folder}"),
    "records": ("zoo", "records.jsonl", mutations.of_lines, "weightflow evaluate {folder}"),
    "summary": ("zoo", "zoo.json", mutations.of_json, "weightflow zoo inspect {folder}"),
    "config": (
        "run",
        "config.toml",
        mutations.of_toml,
        "weightflow sample {folder} --classes one,two --out {out} -q",
    ),
    "layout": (
        "run",
        "layout.json",
        mutations.of_json,
        "weightflow sample {folder} --classes one,two --out {out} -q",
    ),
    "checkpoint": (
        "run",
        "checkpoint.safetensors",
        safetensors_header,
        "weightflow sample {folder} --classes one,two --out {out} -q",
    ),
    "tensors of the checkpoint": (
        "run",
        "checkpoint.safetensors",
        mutations.of_tensors,
        "weightflow sample {folder} --classes one,two --out {out} -q",
    ),
    "tensors of the state": (
        "run",
        "state.safetensors",
        mutations.of_tensors,
        "weightflow train {zoo} --resume --set steps=13 --out {folder} -q",
    ),
    "shard": (
        "zoo",
        "shards/00000.safetensors",
        mutations.of_places,
        "weightflow export {folder} --count 2 --out {out} -q",
    ),
    "recipe of a zoo": (
        "raw",
        "recipe.json",
        mutations.of_json,
        "weightflow zoo build {recipe} --out {folder} -q",
    ),
    "frame": ("zoo", "frame.safetensors", mutations.of_tensors, "weightflow verify {folder}"),
    "metrics": (
        "run",
        "metrics.jsonl",
        mutations.of_lines,
        "weightflow train {zoo} --resume --out {folder} -q",
    ),
    "report": (
        "run",
        "report.json",
        mutations.of_json,
        "weightflow export {folder} --format pretrained --out {out}",
    ),
}


@pytest.mark.parametrize("what", mutations.SPECIAL)
@pytest.mark.parametrize(
    ("source", "name", "line"),
    [
        ("zoo", "zoo.json", "weightflow evaluate {folder}"),
        ("zoo", "records.jsonl", "weightflow zoo inspect {folder}"),
        ("zoo", "frame.safetensors", "weightflow canonicalize {folder} --out {out} -q"),
        ("zoo", "shards/00000.safetensors", "weightflow evaluate {folder}"),
        ("run", "config.toml", "weightflow sample {folder} --classes one,two --out {out} -q"),
        ("run", "layout.json", "weightflow sample {folder} --classes one,two --out {out} -q"),
        ("run", "checkpoint.safetensors", "weightflow sample {folder} --classes one,two --out {out} -q"),
        ("run", "state.safetensors", "weightflow train {zoo} --resume --out {folder} -q"),
        ("run", "metrics.jsonl", "weightflow train {zoo} --resume --out {folder} -q"),
    ],
)
def test_what_is_no_ordinary_file_is_refused_at_once(
    source, name, line, what, zoo, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(zoo.path if source == "zoo" else run, tmp_path / "folder")
    if name == "metrics.jsonl":
        (tmp_path / "folder" / name).touch()
    mutations.special(tmp_path / "folder" / name, what)
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = call(line, folder=tmp_path / "folder", out=tmp_path / "out", zoo=zoo.path)
    problem = examine(code, capsys.readouterr(), time.monotonic() - begun)
    assert not problem
    assert code == 2 or name in ("frame.safetensors", "metrics.jsonl", "state.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


REPORT = {
    "splits": {"seen": {"accuracy": {"mean": 0.5}, "trained": {"mean": 0.5}, "chance": 0.1}, "unseen": None},
    "weights": "0" * 64,
    "novelty": {"nearest_distance_ratio": 1.5},
    "environment": {"torch": "2.6.0", "commit": "a1"},
}


@COUNTS
@pytest.mark.parametrize("kind", IN_FOLDERS)
def test_mutated_files_of_a_folder(
    kind, count, raw_zoo, zoo, run, tiny_recipe, tmp_path, monkeypatch, capsys
):
    source, name, mutate, line = IN_FOLDERS[kind]
    monkeypatch.chdir(tmp_path)
    folder, recipe = tmp_path / "folder", tmp_path / "recipe.toml"
    shutil.copytree({"raw": raw_zoo.path, "zoo": zoo.path, "run": run}[source], folder)
    recipe.write_text(tomli_w.dumps(config.to_dict(tiny_recipe)))
    if name == "report.json":
        (folder / name).write_text(json.dumps(REPORT))
    content = (folder / name).read_bytes()
    if Path(name).suffix in (".json", ".toml"):
        content = without_digest(content)
    unexpected = []
    for number in range(count):
        refreshed(folder / name, mutations.drawn(mutate, content, random.Random(f"{SEED}{kind} {number}")))
        begun = time.monotonic()
        code = call(line, folder=folder, out=tmp_path / "out", zoo=zoo.path, recipe=recipe)
        said = capsys.readouterr()
        if problem := examine(code, said, time.monotonic() - begun):
            unexpected.append(f"{number}: {problem}: {said.err.strip()[-300:]}")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert not unexpected, "\n".join(unexpected)


FOLDERS = {
    "zoo": "weightflow canonicalize {folder} --out {out} -q",
    "run": "weightflow sample {folder} --classes one,two --out {out} -q",
    "networks": "weightflow zoo import {folder} --dataset digits --out {out} -q",
    "pictures": "weightflow zoo build {files}/recipe.toml --set dataset=imagefolder:{folder} --out {out} -q",
}


@COUNTS
@pytest.mark.parametrize("kind", FOLDERS)
def test_mutated_folders(kind, count, files, zoo, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, out = tmp_path / "folder", tmp_path / "out"
    source = {"zoo": zoo.path, "run": run}.get(kind, files / kind)
    unexpected = []
    for number in range(count):
        shutil.copytree(source, folder)
        mutations.of_folder(folder, random.Random(f"{SEED}{kind} {number}"))
        load.cache_clear()
        begun = time.monotonic()
        code = call(FOLDERS[kind], folder=folder, out=out, files=files)
        said = capsys.readouterr()
        if problem := examine(code, said, time.monotonic() - begun):
            unexpected.append(f"{number}: {problem}: {said.err.strip()[-300:]}")
        shutil.rmtree(folder)
        shutil.rmtree(out, ignore_errors=True)
    assert not unexpected, "\n".join(unexpected)


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """Folders as Hugging Face's libraries write them: one file of weights, and shards with an index."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=8))
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="4KB")
    return folder


MODEL_FOLDERS = {
    "configuration": ("whole", "config.json", mutations.of_json),
    "index": ("shards", "model.safetensors.index.json", mutations.of_json),
    "shard": ("shards", "model-00001-of-*.safetensors", mutations.of_tensors),
    "folder": ("shards", None, mutations.of_folder),
}


@COUNTS
@pytest.mark.parametrize("kind", MODEL_FOLDERS)
def test_mutated_folders_of_models(kind, count, model_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source, name, mutate = MODEL_FOLDERS[kind]
    folder, out, unexpected = tmp_path / "folder", tmp_path / "out", []
    for number in range(count):
        shutil.copytree(model_folders / source, folder)
        draw = random.Random(f"{SEED}{kind} {number}")
        if name is None:
            mutate(folder, draw)
        else:
            path = next(folder.glob(name))
            path.write_bytes(mutations.drawn(mutate, path.read_bytes(), draw))
        begun = time.monotonic()
        code = call("canon canonicalize {folder} --out {out}", folder=folder, out=out)
        said = capsys.readouterr()
        problem = examine(code, said, time.monotonic() - begun)
        if code and out.exists():
            problem = problem or "left a folder"
        if problem:
            unexpected.append(f"{number}: {problem}: {said.err.strip()[-300:]}")
        shutil.rmtree(folder)
        shutil.rmtree(out, ignore_errors=True)
    assert not unexpected, "\n".join(unexpected)


@pytest.mark.parametrize("shape", [(), (1,), (0, 16)])
def test_an_embedding_of_another_rank_is_refused(shape, model_folders, tmp_path, capsys):
    found = checkpoint.read(model_folders / "whole")
    name = next(key for key in found.state if key.endswith("word_embeddings.weight"))
    checkpoint.write(tmp_path / "x.safetensors", {**found.state, name: torch.zeros(shape)})
    assert call("canon inspect {file}", file=tmp_path / "x.safetensors") == 2
    assert "(unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_link_to_itself_in_a_folder_of_a_model_is_no_error_of_ours(name, model_folders, tmp_path, capsys):
    shutil.copytree(model_folders / "whole", tmp_path / "folder")
    (tmp_path / "folder" / name).unlink(missing_ok=True)
    (tmp_path / "folder" / name).symlink_to(tmp_path / "folder" / name)
    assert call(
        "canon canonicalize {folder} --out {out}", folder=tmp_path / "folder", out=tmp_path / "out"
    ) in (0, 2)
    assert "(unexpected" not in capsys.readouterr().err


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small data sets as their publishers lay them down."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    raw, cifar = folder / "MNIST" / "raw", folder / "cifar-10-batches-py"
    yelp, tiny = folder / "yelp", folder / "tiny-imagenet-200"
    for made in (raw, cifar, yelp, tiny / "val" / "images"):
        made.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        content = gzip.compress(idx(draw.integers(0, 255, (count, 4, 4))))
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(content)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = draw.integers(0, 255, (20, 3072)).astype(np.uint8)
        (cifar / name).write_bytes(pickle.dumps({"labels": [n % 10 for n in range(20)], "data": pixels}, 2))
    (cifar / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    reviews = [json.dumps({"stars": n % 5 + 1.0, "text": f"good place {n}"}) for n in range(60)]
    (yelp / "yelp_academic_dataset_review.json").write_text("\n".join(reviews) + "\n")
    table = folder / "csv" / "yelp_review_full_csv"
    table.mkdir(parents=True)
    for part, count in (("train", 60), ("test", 20)):
        rows = "".join(f'"{n % 5 + 1}","good place {n}, ""very"" good"\n' for n in range(count))
        (table / f"{part}.csv").write_text(rows)
    (tiny / "wnids.txt").write_text("n1\nn2\n")
    (tiny / "words.txt").write_text("n1\tcat, tom\nn2\tdog\n")
    for wnid in ("n1", "n2"):
        (tiny / "train" / wnid / "images").mkdir(parents=True)
        for number in range(8):
            pixels = draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tiny / "train" / wnid / "images" / f"{number}.png")
            Image.fromarray(pixels).save(tiny / "val" / "images" / f"{wnid}{number}.png")
    rows = [f"{wnid}{number}.png\t{wnid}\t0" for wnid in ("n1", "n2") for number in range(8)]
    (tiny / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return folder


def plain_pickle(content, draw):
    """Changed bytes, or a pickle in which an entry is missing or of another type, size or dtype."""
    if draw.random() < 0.5:
        return mutations.of_bytes(content, draw)
    found = pickle.loads(content)
    name = draw.choice(sorted(found))
    odd = [None, "x", 3, [], [None], {}, [10**30], [1.5] * 20, b"x", np.zeros(3), np.zeros((2, 3072), object)]
    found[name] = draw.choice([*odd, np.full((20, 3072), -1), np.float32(np.nan), [[1]], ["\x1b[2J"] * 10])
    if draw.random() < 0.3:
        del found[name]
    return pickle.dumps(found, 2)


PUBLISHED = {
    "images of MNIST": ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz", mutations.of_bytes),
    "labels of MNIST": ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", mutations.of_bytes),
    "batch of CIFAR": ("cifar10", "cifar-10-batches-py/data_batch_3", plain_pickle),
    "names of CIFAR": ("cifar10", "cifar-10-batches-py/batches.meta", plain_pickle),
    "reviews of Yelp": ("yelp", "yelp/yelp_academic_dataset_review.json", mutations.of_lines),
    "table of Yelp": ("yelp", "csv/yelp_review_full_csv/train.csv", mutations.of_bytes),
    "classes of Tiny ImageNet": ("tinyimagenet", "tiny-imagenet-200/wnids.txt", mutations.of_bytes),
    "folder of Tiny ImageNet": ("tinyimagenet", "tiny-imagenet-200", mutations.of_folder),
    "folder of MNIST": ("mnist", "MNIST", mutations.of_folder),
    "folder of CIFAR": ("cifar10", "cifar-10-batches-py", mutations.of_folder),
    "folder of Yelp": ("yelp", "csv/yelp_review_full_csv", mutations.of_folder),
    "words of Tiny ImageNet": ("tinyimagenet", "tiny-imagenet-200/words.txt", mutations.of_bytes),
    "rows of Tiny ImageNet": (
        "tinyimagenet",
        "tiny-imagenet-200/val/val_annotations.txt",
        mutations.of_bytes,
    ),
    "picture of Tiny ImageNet": (
        "tinyimagenet",
        "tiny-imagenet-200/train/n1/images/3.png",
        mutations.of_bytes,
    ),
}


@COUNTS
@pytest.mark.parametrize("kind", PUBLISHED)
def test_mutated_files_of_published_data_sets(kind, count, published, tmp_path, monkeypatch):
    name, place, mutate = PUBLISHED[kind]
    data = tmp_path / "data"
    shutil.copytree(published, data)
    monkeypatch.setenv("WEIGHTFLOW_DATA", str(data / "csv" if place.startswith("csv/") else data))
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    load.cache_clear()
    assert load(name).train.inputs[:].isfinite().all()
    path, source = data / place, published / place
    for number in range(count):
        draw = random.Random(f"{SEED}{kind} {number}")
        if source.is_dir():
            shutil.rmtree(path)
            shutil.copytree(source, path)
            mutate(path, draw)
        else:
            path.write_bytes(mutations.drawn(mutate, source.read_bytes(), draw))
        load.cache_clear()
        begun = time.monotonic()
        with contextlib.suppress(InputError):  # any other error is none that a person can do something about
            assert load(name).train.inputs[:].isfinite().all(), number
        assert time.monotonic() - begun < SECONDS, number
    load.cache_clear()


def test_a_cache_that_never_ends_is_made_anew(files, tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path))
    load.cache_clear()
    whole = load(f"npz:{files}/images.npz").train.inputs[:].clone()
    (sums,) = tmp_path.rglob(decoded_cache.HASHES)
    sums.unlink()
    sums.symlink_to("/dev/zero")
    load.cache_clear()
    decoded_cache._is_whole.cache_clear()
    assert torch.equal(load(f"npz:{files}/images.npz").train.inputs[:], whole)
    assert not sums.is_symlink()
    load.cache_clear()


def cut(array):
    return array[:5]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.npy", cut),
        ("train_keys.npy", cut),
        ("train_labels.npy", cut),
        ("train_labels.npy", np.ndarray.tobytes),
    ],
)
def test_a_cache_whose_sums_are_right_and_arrays_are_not_is_named(name, change, files, tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path))
    load.cache_clear()
    load(f"npz:{files}/images.npz")
    (path,) = tmp_path.rglob(name)
    np.save(path, change(np.load(path)))
    sums = path.with_name(decoded_cache.HASHES)
    sums.write_text(json.dumps(json.loads(sums.read_text()) | {name: sha256(path)}))
    load.cache_clear()
    decoded_cache._is_whole.cache_clear()
    with pytest.raises(InputError, match=r"is damaged \(.*delete it; the data set is decoded again"):
        load(f"npz:{files}/images.npz")
    load.cache_clear()


def test_a_damaged_cache_is_made_anew(files, tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path))
    load.cache_clear()
    whole = load(f"npz:{files}/images.npz").train.inputs[:].clone()
    for path in sorted((tmp_path / "decoded").rglob("*.*")):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        load.cache_clear()
        decoded_cache._is_whole.cache_clear()
        assert torch.equal(load(f"npz:{files}/images.npz").train.inputs[:], whole)
        assert path.read_bytes() == content
    load.cache_clear()
