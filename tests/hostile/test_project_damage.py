"""Every file of a finished project with one bit flipped: refused, or what is made of it stays the same.

The files are found by walking the folder, not listed: what a command writes tomorrow is tried too.
"""

import json
import os
import random
import shutil
import sys

import numpy as np
import pytest
import tomli_w
import torch

from canon.cli import console
from canon.cli.main import app as canon_app
from tests.hostile import programs
from weightflow.backbones import BackboneCard, write_backbone
from weightflow.cli.main import app as weightflow_app
from weightflow.data.types import Preprocessing
from weightflow.datasets import load
from weightflow.networks.architectures import Architecture
from weightflow.text.encoder import CachedEncoder, TextEncoder

APPS = {"canon": canon_app, "weightflow": weightflow_app}
FLIPS = int(os.environ.get("HOSTILE_FLIPS", 2))
TINY = (
    "--set steps=2 --set batch_size=4 --set model.width=8 --set model.depth=1 --set model.heads=1 "
    "--set behaviour.images=4"
)
SAMPLE = "--classes a,b --out {0}/new/out -q"
# by name of a folder or file of the project: what reads it; {0} is the project
READERS = {
    "cache": ["weightflow evaluate {0}/nets --json -q"],
    "zoo": [
        "weightflow zoo build {0}/recipe.toml --out {0}/zoo -q",
        "weightflow evaluate {0}/zoo --json -q",
        "weightflow canonicalize {0}/zoo --out {0}/new/out -q",
    ],
    "canonical": [
        "weightflow evaluate {0}/canonical --json -q",
        "weightflow train {0}/canonical --out {0}/new/out -q " + TINY,
        "weightflow report {0}/run --limit 2 --out {0}/new/out -q",
    ],
    "run": [
        "weightflow sample {0}/run " + SAMPLE,
        "weightflow train {0}/canonical --out {0}/run --resume --set steps=3 -q",
        "weightflow report {0}/run --limit 2 --out {0}/new/out -q",
        "weightflow export {0}/run --format pretrained --out {0}/new/out",
    ],
    "generator": [
        "weightflow sample {0}/generator " + SAMPLE,
        "weightflow export {0}/generator --format pretrained --out {0}/new/out",
    ],
    "nets": ["weightflow evaluate {0}/nets --json -q", "weightflow export {0}/nets --out {0}/new/out -q"],
    "files": [
        "weightflow zoo import {0}/files --dataset {1} --out {0}/new/out -q",
        "weightflow export {0}/nets --out {0}/files -q",
    ],
    "programs": ["canon inspect {0}/programs/g000000.pt2 --json"],
    "imported": ["weightflow evaluate {0}/imported --json -q"],
    "backbone.safetensors": ["weightflow zoo build {0}/recipe.toml --out {0}/new/out -q"],
    "vectors": [],  # `_read_vectors`
    "recipe.toml": [],  # a person's
    "images.npz": [],
    "vectors.npz": [],
    "a.pt": ["canon inspect {0}/a.pt --json"],
    "nets.py": [],
    "out.pt": ["canon inspect {0}/out.pt --json"],
    "t.safetensors": ["canon apply {0}/t.safetensors {0}/a.pt --out {0}/new/x.pt"],
    "r.json": [],  # for people and other programs
    "s.json": [
        "canon align {0}/a.pt {0}/a.pt --spec {0}/s.json --transform {0}/new/t.safetensors --out {0}/new/x.pt"
    ],
}
# what holds the time, or is drawn for people
ASIDE = {"metrics.jsonl", "report.html", "report.csv", "report.json", ".lock"}


class _Lengths(TextEncoder):
    identity, width = "lengths", 3

    def vectors(self, descriptions):
        return torch.tensor([[len(d), 1.0, 2.0] for d in descriptions])


def _read_vectors(project):
    return CachedEncoder(_Lengths(), project / "vectors").vectors(["one", "three"]).tolist()


def call(line, *places):
    program, *arguments = (part.format(*places) for part in line.split())
    return console.run_cli(APPS[program], arguments, name=program)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A whole project: data, backbone, population, generator, networks, files, programs."""
    project = tmp_path_factory.mktemp("damage") / "project"
    project.mkdir()
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (80, 16, 16, 3)).astype(np.uint8)
    np.savez(
        project / "images.npz", inputs=images, labels=np.arange(80) % 4, class_names=np.array(list("abcd"))
    )
    np.savez(project / "vectors.npz", names=np.array(list("abcd")), embeddings=draw.normal(size=(4, 6)))
    small = Architecture("resnet", {"widths": [4], "blocks": 1, "stem_stride": 2}, (3, 16, 16), 4)
    card, more = (
        BackboneCard(Preprocessing(255.0, (0.5,) * 3, (0.2,) * 3)),
        {"architecture": small.to_json()},
    )
    write_backbone(project / "backbone.safetensors", small.build().state_dict(), card, more)
    dataset = f"npz:{project}/images.npz through {project}/backbone.safetensors"
    recipe = {
        "dataset": dataset,
        "architecture": {"name": "linear_head", "arguments": {"inputs": 4}},
        "tasks": {"sizes": [2, 3], "seen": 4, "validation": 1, "unseen": 1},
        "training": {"steps": 4, "batch_size": 8},
        "shard_size": 3,
    }
    (project / "recipe.toml").write_text(tomli_w.dumps(recipe))
    torch.save(
        {name: tensor.detach() for name, tensor in programs.network().state_dict().items()}, project / "a.pt"
    )
    (project / "nets.py").write_text(
        "from tests.hostile.programs import network\nimport torch\n"
        "def build():\n    return network(), (torch.zeros(4, 5),)\n"
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("WEIGHTFLOW_CACHE", str(project / "cache"))
    load.cache_clear()
    for line in (
        "weightflow zoo build {0}/recipe.toml --out {0}/zoo -q",
        "weightflow canonicalize {0}/zoo --out {0}/canonical -q",
        "weightflow train {0}/canonical --out {0}/run -q --set encoder=table:{0}/vectors.npz " + TINY,
        "weightflow report {0}/run --limit 2 -q",
        "weightflow export {0}/run --format pretrained --out {0}/generator",
        "weightflow sample {0}/run --classes a,b --count 2 --out {0}/nets -q",
        "weightflow zoo card {0}/zoo",
        "weightflow export {0}/nets --out {0}/files -q",
        "weightflow export {0}/nets --format pt2 --out {0}/programs -q",
        "weightflow zoo import {0}/files --dataset " + "{1} --out {0}/imported -q",
        "canon align {0}/a.pt {0}/a.pt --model {0}/nets.py:build --out {0}/out.pt --transform {0}/t.safetensors "
        "--report {0}/r.json",
        "canon inspect {0}/a.pt --model {0}/nets.py:build --save-spec {0}/s.json",
    ):
        assert call(line, project, dataset) == 0, line
    _read_vectors(project)
    yield project
    patch.undo()
    load.cache_clear()


def everything(project):
    return sorted(path for path in project.rglob("*") if path.is_file() and path.stat().st_size)


def contents(path):
    """What a file holds; of a zip archive of arrays that which is read, not when it was written."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tobytes() for name in file.files}
    return path.read_bytes()


def forget():
    """Empty what this process keeps of files: every cache of every module."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in APPS:
            for found in list(vars(module).values()):
                if hasattr(found, "cache_clear"):
                    found.cache_clear()


def made(project, line, capsys, damaged=None):
    """What a command says and leaves, and whether it warns; None where it refuses."""
    (project / "new").mkdir()
    before = damaged.read_bytes() if damaged else b""
    forget()
    capsys.readouterr()
    code = call(line, project, f"npz:{project}/images.npz through {project}/backbone.safetensors")
    said = capsys.readouterr()
    assert "unexpected" not in said.err, said.err
    if code:
        return None
    left = {
        str(path.relative_to(project)): contents(path)
        for path in everything(project)
        if path.name not in ASIDE
        and "cache" not in path.parts
        and (path != damaged or path.read_bytes() != before)
    }
    for path in (project / "new").rglob("report.json"):
        left["figures"] = json.dumps(json.loads(path.read_text())["splits"])
    return left | {"said": said.out if "--json" in line else ""}, "warning" in said.err


def restored(project, kept):
    """Put back what has changed, and nothing else: caches know data by the times of their files."""
    shutil.rmtree(project / "new", ignore_errors=True)
    there = {path.relative_to(project) for path in everything(project)}
    whole = {path.relative_to(kept) for path in everything(kept)}
    for name in there - whole:
        (project / name).unlink()
    for name in whole:
        if name not in there or (project / name).read_bytes() != (kept / name).read_bytes():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept / name, project / name)


@pytest.mark.slow
def test_one_bit_of_any_file_is_refused_or_has_no_influence(project, tmp_path, capsys):
    kept = tmp_path / "kept"
    shutil.copytree(project, kept)
    right = {}
    for line in dict.fromkeys(line for lines in READERS.values() for line in lines):
        right[line] = made(project, line, capsys)
        assert right[line] is not None, line
        restored(project, kept)
    used = []
    for path in everything(kept):
        name = path.relative_to(kept)
        content, draw = path.read_bytes(), random.Random(str(name))
        for number in range(FLIPS):
            place = draw.randrange(len(content) if number % 2 else min(len(content), 2000))
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            for line in READERS[name.parts[0]]:
                (project / name).write_bytes(changed)
                found = made(project, line, capsys, project / name)
                if found is not None and not found[1]:
                    whole, own = right[line][0], found[0]
                    other = [key for key in whole.keys() | own.keys() if whole.get(key) != own.get(key)]
                    if set(other) - {str(name)} or (other and str(name) in own):
                        used.append(f"{name}, byte {place}: {line}: {other}")
                restored(project, kept)
            if name.parts[0] == "vectors":
                (project / name).write_bytes(changed)
                if _read_vectors(project) != [[3.0, 1.0, 2.0], [5.0, 1.0, 2.0]]:
                    used.append(f"{name}, byte {place}: vectors")
                restored(project, kept)
    assert not used, "\n".join(used)
