"""Zoos and generators on a stand-in of the hub: what is pushed is what comes back, without paths of this computer."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch

import weightflow
from canon.cli import console
from canon.errors import InputError, WorkError
from weightflow import datasets
from weightflow.cli.main import app
from weightflow.folders import local_folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that does what the hub does."""
    place = tmp_path / "hub"

    def made(self, repo_id, **settings):
        return SimpleNamespace(repo_id=repo_id)

    def upload(self, *, repo_id, folder_path, repo_type=None, **settings):
        shutil.copytree(folder_path, place / (repo_type or "model") / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}"

    def download(repo_id, *, repo_type=None, revision=None, **settings):
        found = place / (repo_type or "model") / repo_id
        if not found.is_dir() or revision == "gone":
            raise OSError(f"404: {repo_id} is not there")
        return str(found)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", made)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return place


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def test_a_zoo_that_is_pushed_comes_back(hub, zoo, capsys):
    assert call("export", zoo.path, "--push", "me/digits") == 0
    assert capsys.readouterr().out.strip() == "hf://me/digits"
    again = weightflow.Zoo("hf://me/digits")
    assert [one.id for one in again.records] == [one.id for one in zoo.records]
    assert all(torch.equal(again[0][name], zoo[0][name]) for name in zoo[0])
    assert again.verify() == []
    assert "networks on digits" in (again.path / "README.md").read_text("utf-8")
    assert call("zoo", "inspect", "hf://me/digits") == 0
    assert call("verify", "hf://me/digits") == 0


def test_a_generator_that_is_pushed_comes_back(hub, run, tmp_path, capsys):
    assert call("export", run, "--format", "pretrained", "--push", "me/generator") == 0
    assert capsys.readouterr().out.strip() == "hf://me/generator"
    here, there = (weightflow.load(name).sample("three, seven", 2) for name in (run, "hf://me/generator"))
    assert all(torch.equal(here.state[name], there.state[name]) for name in here.state)
    assert call("sample", "hf://me/generator", "--classes", "three, seven", "--out", tmp_path / "nets") == 0
    assert call("verify", "hf://me/generator") == 0
    for path in (hub / "model" / "me" / "generator").rglob("*.*"):
        assert str(run.parent).encode() not in path.read_bytes(), path
    weightflow.load(run).push_to_hub("me/again")
    assert weightflow.load("hf://me/again").sample("three, seven", 2)[0].keys() == here[0].keys()


def test_what_is_pushed_has_no_paths_of_this_computer(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", inputs=np.random.default_rng(0).normal(size=(80, 4)), labels=np.arange(80) % 2)
    settings = {
        "tasks.sizes": [2, 2], "tasks.seen": 2, "tasks.validation": 0, "tasks.unseen": 0, "training.steps": 2,
        "tasks.validation_fraction": 0.0, "tasks.unseen_fraction": 0.0, "dataset": "npz:a.npz",
        "architecture.arguments": {"inputs": 4, "hidden": [3]},
    }  # fmt: skip
    weightflow.build_zoo("iris", "zoo", settings=settings)
    assert call("export", "zoo", "--push", "me/own") == 0
    for path in (hub / "dataset" / "me" / "own").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert weightflow.Zoo("hf://me/own").dataset == "npz:a.npz"
    datasets.load.cache_clear()


def test_names_on_the_hub_are_checked(hub, tmp_path):
    assert local_folder("runs/digits", "model") == Path("runs/digits")
    with pytest.raises(InputError, match="write hf://OWNER/NAME"):
        local_folder("hf://digits", "model")
    with pytest.raises(WorkError, match="cannot be downloaded: 404"):
        weightflow.Zoo("hf://me/nothing")
    assert call("export", tmp_path) == 2
