"""The documentation is true: every block of code runs, commands and links exist, tables come from the results."""

import io
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.main import get_command

from benchmarks.readme import README, RESULTS, filled
from canon.cli import console
from canon.cli.main import app as canon_app
from weightflow import registry
from weightflow.cli.main import app as weightflow_app

ROOT = README.parent
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *GUIDES]
EVERY = [*PAGES, RESULTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
APPS = {"weightflow": weightflow_app, "canon": canon_app}
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Laid over the commands of a page, so that it runs in seconds.
SMALL = {
    "zoo build": "tasks.seen=8 tasks.validation=2 tasks.unseen=2 training.steps=5 shard_size=6",
    "train": "steps=2 batch_size=4",
}
NETS = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
"""


def test_tables_are_what_the_benchmarks_wrote():
    for path in (README, RESULTS):
        text = path.read_text(encoding="utf-8")
        assert filled(text) == text, path


def test_the_readme_is_short():
    assert 100 <= len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}, target


def test_every_guide_is_in_the_readme():
    text = README.read_text(encoding="utf-8")
    assert not [guide.name for guide in GUIDES if f"docs/{guide.name}" not in text]


def commands(tool):
    names = set()

    def walk(command, path):
        children = getattr(command, "commands", None)
        if children is None:
            names.add(" ".join(path))
            return
        for name, child in children.items():
            walk(child, [*path, name])

    walk(get_command(APPS[tool]), [tool])
    return names


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_every_command_shown_exists(path):
    known = commands("weightflow") | commands("canon")
    for kind, _, block in BLOCK.findall(path.read_text(encoding="utf-8")):
        if kind not in ("bash", "text"):
            continue
        for line in re.findall(r"(?:weightflow|canon) +[a-z].*", block):
            words = re.sub(r"--plugin \S+ ", "", line)
            assert any(words.startswith(name) for name in known), line


@pytest.fixture
def place(run, raw_zoo, zoo, tmp_path, monkeypatch):
    """A folder with the files that the pages speak of."""
    shutil.copytree(run, tmp_path / "runs" / "digits")
    (tmp_path / "zoos").mkdir()
    for name, target in {"digits": raw_zoo.path, "canonical": zoo.path}.items():
        (tmp_path / "zoos" / name).symlink_to(target)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "examples.npz", x=rng.normal(size=(20, 4)).astype(np.float32), y=rng.integers(0, 2, 20)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.PLUGINS, "")  # set, so that what a page announces is undone
    monkeypatch.setattr(registry, "_loaded", {})
    assert call("weightflow sample runs/digits --classes 'three, seven' --out nets", monkeypatch) == 0
    yield tmp_path
    for name in ("parts", "nets"):
        sys.modules.pop(name, None)


def call(line, monkeypatch):
    typed, _, command = line.rpartition(" | ")
    if typed.startswith("printf"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed.split("'")[1].replace("\\n", "\n")))
    else:
        command = line
    tool, *words = shlex.split(command)
    for name, settings in SMALL.items():
        if tool == "weightflow" and f" {name} " in f" {command} ":
            words += [part for setting in settings.split() for part in ("--set", setting)]
    return console.run_cli(APPS[tool], words, name=tool)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs_in_its_order(page, place, monkeypatch):
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for kind, file, block in blocks:
        if file:
            (place / file).write_text(block)
        elif kind == "python":
            exec(compile(block, str(page), "exec"), {})
        elif kind == "bash":
            for line in block.splitlines():
                assert call(line, monkeypatch) == 0, line
    shown = {kind for kind, _, _ in blocks}
    assert shown & {"python", "bash", "text"}
