"""Every command, killed before every call that changes a file: the same command then ends as if nothing had been.

Processes are ended by SIGKILL, from an audit hook of Python, which hears of each call before it is made.
"""

import contextlib
import re
import shutil

import numpy as np
import pytest
import tomli_w
import torch
import typer

from canon.cli import console
from canon.cli.main import app as canon_app
from tests.hostile import kills, programs
from weightflow.backbones import BackboneCard, write_backbone
from weightflow.cli.main import app as weightflow_app
from weightflow.data.types import Preprocessing
from weightflow.datasets import load
from weightflow.networks.architectures import Architecture

APPS = {"canon": canon_app, "weightflow": weightflow_app}
# what is written beside results, or tells the time: not compared
ASIDE = ("metrics.jsonl", "report.json", "report.html", "r.json", ".lock", ".locks")
TINY = (
    "--set steps=2 --set batch_size=4 --set save_every=1 --set evaluate_every=1 --set model.width=8 "
    "--set model.depth=1 --set model.heads=1 --set behaviour.images=4"
)


@pytest.fixture(scope="module")
def ready(tmp_path_factory, raw_zoo, zoo, run):
    """What the commands read."""
    folder = tmp_path_factory.mktemp("ready")
    patch = pytest.MonkeyPatch()
    patch.setenv("WEIGHTFLOW_CACHE", str(folder / "cache"))
    shutil.copytree(raw_zoo.path, folder / "raw")
    shutil.copytree(zoo.path, folder / "zoo")
    shutil.copytree(run, folder / "run")
    recipe = {
        "dataset": "digits",
        "architecture": {"name": "mlp", "arguments": {"inputs": 64, "hidden": [4]}},
        "tasks": {"sizes": [2, 3], "seen": 3, "validation": 1, "unseen": 1},
        "training": {"steps": 2, "batch_size": 4},
        "shard_size": 2,
    }
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    (folder / "branched.toml").write_text(
        tomli_w.dumps({**recipe, "lineage": "branched", "base": {"steps": 2}})
    )
    images = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", inputs=images, labels=np.arange(60) % 4)
    network = programs.network()
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    torch.save(state, folder / "a.pt")
    torch.save({name: tensor.flip(0) for name, tensor in state.items()}, folder / "b.pt")
    (folder / "nets.py").write_text(
        "from tests.hostile.programs import network\nimport torch\n"
        "def build():\n    return network(), (torch.zeros(4, 5),)\n"
        "def made(classes):\n    return torch.nn.Linear(64, classes)\n"
    )
    (folder / "own").mkdir()
    torch.save(torch.nn.Linear(64, 3).state_dict(), folder / "own" / "n.pt")
    np.savez(folder / "x.npz", x=np.ones((6, 5), np.float32), y=np.arange(6) % 3)
    (folder / "prompts.txt").write_text("one, two\nthree, four\n")
    load(f"npz:{folder}/images.npz")
    small = Architecture("resnet", {"widths": [4], "blocks": 1, "stem_stride": 2}, (3, 16, 16), 4)
    write_backbone(
        folder / "backbone.safetensors",
        small.build().state_dict(),
        BackboneCard(Preprocessing(255.0, (0.5,) * 3, (0.2,) * 3)),
        {"architecture": small.to_json()},
    )
    heads = {
        "dataset": f"npz:{folder}/images.npz through {folder}/backbone.safetensors",
        "architecture": {"name": "linear_head", "arguments": {"inputs": 4}},
    }
    (folder / "heads.toml").write_text(tomli_w.dumps({**recipe, **heads}))
    with contextlib.suppress(ImportError):
        import torchvision

        torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), folder / "taken.pt")
    with contextlib.suppress(ImportError):
        import transformers

        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        shape = transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=16)
        transformers.BertModel(shape).save_pretrained(folder / "bert", max_shard_size="4KB")
    quiet("weightflow sample {0}/run --classes one,two --count 2 --out {0}/nets -q", folder)
    quiet("weightflow export {0}/nets --out {0}/files -q", folder)
    quiet(
        "canon align {0}/a.pt {0}/b.pt --model {0}/nets.py:build --out {0}/t.pt --transform {0}/t.safetensors",
        folder,
    )
    yield folder
    patch.undo()


def quiet(line, *places):
    program, *arguments = (part.format(*places) for part in line.split())
    code = console.run_cli(APPS[program], arguments, name=program)
    assert code == 0, line


# by name: the command ({0} what it reads, {1} the folder that it writes into), and what lies there before
COMMANDS = {
    "build": ("weightflow zoo build {0}/recipe.toml --out {1}/out -q", ""),
    "build branched": ("weightflow zoo build {0}/branched.toml --out {1}/out -q", ""),
    "build decoded": (
        "WEIGHTFLOW_CACHE={1}/cache weightflow zoo build {0}/recipe.toml --set dataset=npz:{0}/images.npz "
        "--set architecture.arguments.inputs=768 --out {1}/out -q",
        "",
    ),
    "build heads": (
        "WEIGHTFLOW_CACHE={1}/cache weightflow zoo build {0}/heads.toml --out {1}/out -q",
        "",
    ),
    "canonicalize": ("weightflow canonicalize {0}/raw --out {1}/out -q", ""),
    "train": ("weightflow train {0}/zoo --out {1}/out -q " + TINY, ""),
    "train on": ("weightflow train {0}/zoo --out {1}/out --resume --set steps=14 -q", "run"),
    "sample": ("weightflow sample {0}/run --classes one,two --count 3 --out {1}/out -q", ""),
    "sample over": ("weightflow sample {0}/run --classes three,four --out {1}/out -q", "nets"),
    "sample prompts": ("weightflow sample {0}/run --prompts {0}/prompts.txt --out {1}/out -q", ""),
    "import": ("weightflow zoo import {0}/files --dataset digits --out {1}/out -q", ""),
    "import own": (
        "weightflow zoo import {0}/own --model {0}/nets.py:made --dataset digits --classes one,two,three "
        "--out {1}/out -q",
        "",
    ),
    "export": ("weightflow export {0}/nets --out {1}/out -q", ""),
    "export again": ("weightflow export {0}/nets --out {1}/out -q", "files"),
    "export programs": ("weightflow export {0}/nets --format pt2 --out {1}/out -q", ""),
    "export onnx": ("weightflow export {0}/nets --format onnx --out {1}/out -q", ""),
    "export generator": ("weightflow export {0}/run --format pretrained --out {1}/out", ""),
    "card": ("weightflow zoo card {1}/out", "zoo"),
    "report": ("weightflow report {1}/out --limit 2 -q", "run"),
    "report elsewhere": ("weightflow report {0}/run --out {1}/out --limit 2 -q", ""),
    "backbone": (
        "weightflow backbone train npz:{0}/images.npz --out {1}/out.safetensors --set epochs=2 "
        "--set arguments.widths=[4,4] --set arguments.blocks=1 -q",
        "",
    ),
    "take": (
        "weightflow backbone take torchvision:shufflenet_v2_x0_5 --checkpoint {0}/taken.pt --out {1}/out.safetensors",
        "",
    ),
    "fuse": (
        "weightflow fuse {0}/files/g000000.safetensors {0}/files/g000001.safetensors --run {0}/run "
        "--out {1}/out.safetensors",
        "",
    ),
    "enhance": (
        "weightflow enhance {0}/files/g000000.safetensors --run {0}/run --sweep --plot {1}/p.svg "
        "--out {1}/out.safetensors",
        "",
    ),
    "align": (
        "canon align {0}/a.pt {0}/b.pt --model {0}/nets.py:build --out {1}/out.pt --transform {1}/t.safetensors "
        "--report {1}/r.json",
        "",
    ),
    "align folders": ("canon align {0}/bert {0}/bert --out {1}/out", ""),
    "merge": ("canon merge {0}/a.pt {0}/b.pt --model {0}/nets.py:build --out {1}/out.safetensors", ""),
    "merge folders": ("canon merge {0}/bert {0}/bert --out {1}/out", ""),
    "barrier": (
        "canon barrier {0}/a.pt {0}/b.pt --model {0}/nets.py:build --data {0}/x.npz --points 3 --plot {1}/p.svg",
        "",
    ),
    "canonical form": ("canon canonicalize {0}/a.pt --model {0}/nets.py:build --out {1}/out.pt", ""),
    "apply": ("canon apply {0}/t.safetensors {0}/b.pt --out {1}/out.pt", ""),
    "spec": ("canon inspect {0}/a.pt --model {0}/nets.py:build --save-spec {1}/s.json", ""),
}
GOES_ON = {"train": " --resume"}
"""What is added to a command that was killed: without it a run that has begun is refused, which names it."""
NEEDS = {
    "take": "torchvision",
    "export onnx": "onnxruntime",
    "align folders": "transformers",
    "merge folders": "transformers",
}
QUICK = {"sample", "sample over", "import", "export again", "card", "apply"}
READ_ONLY = {
    "inspect": "canon inspect {0}/a.pt",
    "verify": "canon verify {0}/a.pt {0}/a.pt",
    "barrier": "canon barrier {0}/a.pt {0}/b.pt --model {0}/nets.py:build --data {0}/x.npz --points 3",
    "list": "weightflow list encoders",
    "summary": "weightflow zoo inspect {0}/zoo",
    "verify zoo": "weightflow zoo verify {0}/zoo",
    "verify run": "weightflow verify {0}/run",
    "evaluate": "weightflow evaluate {0}/nets -q",
    "transfer": "weightflow transfer {0}/nets --dataset digits --classes three,four --epochs 0,1 --images 4 -q",
}


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not set(path.relative_to(folder).parts) & set(ASIDE)
    }


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock"}


def prepare(folder, ready, before):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if before:
        shutil.copytree(ready / before, folder / "out")


def words(line, *places):
    return [part.format(*places) for part in line.split()]


@pytest.fixture(scope="module")
def server(ready):
    with kills.Server() as found:
        yield found


def undisturbed(command, ready, server, folder):
    """A command and the one that goes on with it, as they are typed, and the files and names that it leaves."""
    line, before = COMMANDS[command]
    work, again = (words(one, ready, folder) for one in (line, line + GOES_ON.get(command, "")))
    prepare(folder, ready, before)
    assert server.run(work, folder) == 0
    return work, again, files(folder), names(folder)


@pytest.mark.parametrize(
    ("command", "every"),
    [
        *((name, 7) for name in sorted(QUICK)),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in COMMANDS),
    ],
)
def test_a_killed_command_ends_as_if_nothing_had_been(command, every, ready, server, tmp_path):
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    folder, before = tmp_path / "work", COMMANDS[command][1]
    work, again, whole, there = undisturbed(command, ready, server, folder)
    for call in range(0, 1000, every):
        prepare(folder, ready, before)
        code = server.run(work, folder, call)
        if code == 0:
            break
        assert code == -9, f"killed at call {call}: exit code {code}"
        assert server.run(again, folder) == 0, f"killed at call {call}: refused"
        found = files(folder)
        different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
        assert not different, f"killed at call {call}: {different} differ"
        assert names(folder) == there, f"killed at call {call}: {sorted(names(folder) ^ there)} left"
    assert call > 0


def leaves(command, path=()):
    """Every command of an application, as it is typed."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path)


@pytest.mark.parametrize("program", APPS)
def test_every_command_is_killed_or_changes_nothing(program):
    lines = [line for line, _ in COMMANDS.values()] + list(READ_ONLY.values())
    lines += ["weightflow demo "]  # these commands, one after another
    found = list(leaves(typer.main.get_command(APPS[program])))
    assert len(found) > 5
    assert [name for name in found if not any(f"{program} {name} " in line for line in lines)] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", READ_ONLY)
def test_commands_that_print_change_nothing(command, ready, server):
    assert server.run(words(READ_ONLY[command], ready), ready, "EROFS") == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "report"])
def test_a_disk_that_cannot_be_written_is_said_at_once_and_nothing_is_lost(command, ready, server, tmp_path):
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    line, before = COMMANDS[command]
    folder = tmp_path / "work"
    work = words(line, ready, folder)
    prepare(folder, ready, before)
    whole = files(folder)
    assert server.run(work, folder, "EROFS") == 2
    assert files(folder) == whole
    assert server.run(work, folder, "ENOSPC") == 1
    assert files(folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_work_goes_on_after_a_disk_was_full(command, ready, server, tmp_path):
    """From its second change on, and from later ones."""
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    folder, before = tmp_path / "work", COMMANDS[command][1]
    work, again, whole, there = undisturbed(command, ready, server, folder)
    for call in (1, 3, 6, 12, 24, 48):
        prepare(folder, ready, before)
        code = server.run(work, folder, f"ENOSPC {call}")
        if code == 0:
            break
        assert code == 1, f"full at change {call}: exit code {code}"
        assert 0 in (server.run(again, folder), server.run(work, folder)), f"full at change {call}: refused"
        assert files(folder) == whole, f"full at change {call}"
        assert names(folder) == there, f"full at change {call}: {sorted(names(folder) ^ there)} left"


NEW = [name for name, (_, before) in COMMANDS.items() if not before]
PLACES = [(name, place) for name in NEW for place in re.findall(r"\{1\}/(?!cache)(\S+)", COMMANDS[name][0])]


def fast(name):
    return name in QUICK or name in ("build", "train")


@pytest.mark.parametrize(
    ("command", "place"),
    [pytest.param(*found, marks=[] if fast(found[0]) else pytest.mark.slow) for found in PLACES],
)
def test_what_is_in_the_place_of_a_result_is_wrong_input(command, place, ready, server, tmp_path):
    """A folder where a file is written, and a file where a folder is."""
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    found = tmp_path / place
    inside = found / "precious" if found.suffix else found
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("precious")
    assert server.run(words(COMMANDS[command][0], ready, tmp_path), tmp_path) == 2
    there = {name for name in names(tmp_path) if not name.startswith("cache")}
    assert there == {str(path.relative_to(tmp_path)) for path in {found, inside}}
    assert inside.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize("command", NEW)
def test_a_result_below_a_file_is_wrong_input(command, ready, server, tmp_path):
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    (tmp_path / "file").write_text("precious")
    assert server.run(words(COMMANDS[command][0], ready, tmp_path / "file"), tmp_path) == 2
    assert files(tmp_path) == {"file": b"precious"}
