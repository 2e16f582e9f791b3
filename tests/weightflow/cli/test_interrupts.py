"""Ctrl-C, SIGTERM and SIGHUP: the step at hand is kept, the message says which, and the same command goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from canon.cli import console
from canon.io import checkpoint
from weightflow.cli.main import app
from weightflow.training import run_store as runs
from weightflow.zoo.store import Zoo


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def interrupted_at(monkeypatch, place, count):
    """The function at `place` raises Ctrl-C at its call number `count`."""
    module, _, name = place.rpartition(".")
    real, seen = getattr(sys.modules[module], name), []

    def work(*arguments, **options):
        seen.append(name)
        if len(seen) == count:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(place, work)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_training_keeps_the_step_at_which_it_was_ended(zoo, tmp_path, number, code):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "weightflow.cli.main", "train", str(zoo.path), "--out", str(out)]
    small = ["steps=100000", "save_every=100000", "evaluate_every=1", "patience=100000", "model.width=16"]
    process = subprocess.Popen(
        [*command, *(part for setting in small for part in ("--set", setting))],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for _ in range(600):
        if len(runs.read_metrics(out)) > 2:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    said = re.search(
        r"the state of step (\d+) is saved in \S+; go on with: weightflow train .* --resume", error
    )
    assert said, error
    kept = int(checkpoint.read(out / "state.safetensors").metadata["step"])
    assert kept == int(said[1]) > 2
    assert runs.checkpoint_step(out) == kept
    assert runs.read_metrics(out)[-1]["step"] == kept


def test_a_second_interrupt_is_not_deferred():
    def interrupt_twice():
        with console.receiving(), console.deferred() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one ends the block")

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_a_stopped_canonicalization_goes_on(raw_zoo, tmp_path, capsys, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call("canonicalize", raw_zoo.path, "--out", whole, "-q") == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.zoo.canonicalize.align_to_frame", 2)
        assert call("canonicalize", raw_zoo.path, "--out", out, "-q") == 130
    told = capsys.readouterr().err
    assert f"the frame and 20 of {len(raw_zoo)} networks are in {out}; run the same command again" in told
    with monkeypatch.context() as patch:
        patch.setattr("weightflow.zoo.canonicalize.align_many", None)  # the frame is there
        assert call("canonicalize", raw_zoo.path, "--out", out, "-q") == 0
    assert Zoo(out).identity == Zoo(whole).identity
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.zoo.canonicalize.align_many", 1)
        assert call("canonicalize", raw_zoo.path, "--out", tmp_path / "new", "-q") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_stopped_report_goes_on_with_the_parts_that_are_left(run, tmp_path, capsys, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = ("--limit", 3, "-q", "--json", "--out")
    assert call("report", run, *options, whole) == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.report.diversity", 1)
        assert call("report", run, *options, out) == 130
    kept = out / "report.partial.json"
    parts = json.loads(kept.read_text())["parts"]
    assert f"{len(parts)} parts of the report are kept in {kept}; run the same" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("weightflow.report.solvers", None)  # measured before
        assert call("report", run, *options, out) == 0
    assert sorted(os.listdir(out)) == ["report.csv", "report.html", "report.json"]
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (whole, out))
    assert {key for key in one if one[key] != other[key]} <= {"speed", "sha256"}


def test_parts_of_another_report_are_not_used(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.report.diversity", 1)
        assert call("report", run, "--limit", 3, "-q", "--out", out) == 130
        assert call("report", run, "--limit", 2, "-q", "--json", "--out", out) == 0
    capsys.readouterr()
    found = json.loads((out / "report.json").read_text())
    assert found["splits"]["seen"]["networks"] == 2
    shutil.rmtree(out)


def test_a_stopped_evaluation_shows_the_networks_judged_so_far(zoo, capsys, monkeypatch):
    real = sys.modules["weightflow.evaluation.evaluate"].evaluate_networks

    def evaluate_networks(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr("weightflow.evaluation.population.evaluate_networks", evaluate_networks)
    monkeypatch.setattr("weightflow.evaluation.population.networks_per_group", lambda architecture: 16)
    assert call("evaluate", zoo.path, "-q", "--json") == 143
    out, err = capsys.readouterr()
    judged = json.loads(out)["judged"]
    assert 0 < judged < len(zoo)
    assert f"{judged} of {len(zoo)} networks were judged; the figures are of those" in err


def test_a_stopped_transfer_shows_the_figures_of_finished_starts(raw_zoo, capsys, monkeypatch):
    classes = ", ".join(raw_zoo.records[0].classes)
    command = (
        "transfer",
        raw_zoo.path,
        "--dataset",
        "digits",
        "--classes",
        classes,
        "--count",
        2,
        "--images",
        10,
    )
    assert call(*command, "-q", "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.applications.transfer.train_to_each", 2)
        assert call(*command, "-q", "--json") == 130
        out, err = capsys.readouterr()
        assert json.loads(out)["accuracy"] == {"generated": whole["accuracy"]["generated"]}
        assert err == "interrupted: the figures are those of generated; generated, random were asked for\n"
    with monkeypatch.context() as patch:
        interrupted_at(patch, "weightflow.applications.transfer.train_to_each", 1)
        assert call(*command, "-q", "--json") == 130
    assert capsys.readouterr() == ("", "interrupted: nothing was written; run the same command again\n")


def test_a_stopped_import_says_that_its_zoo_is_not_finished(raw_zoo, tmp_path, capsys, monkeypatch):
    files, out = tmp_path / "files", tmp_path / "out"
    assert call("export", raw_zoo.path, "--out", files, "-q") == 0
    again = ("zoo", "import", files, "--dataset", "digits", "--out", out, "-q")
    monkeypatch.setattr("weightflow.zoo.import_checkpoints.write_manifest", interrupt)
    assert call(*again) == 130
    assert f"{out} is not finished; run the same command again" in " ".join(capsys.readouterr().err.split())
    assert any(out.rglob("*.safetensors"))
    monkeypatch.undo()
    monkeypatch.setattr("weightflow.zoo.import_checkpoints._check", interrupt)
    assert call(*again[:-2], tmp_path / "other", "-q") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    monkeypatch.undo()
    assert call(*again) == 0
    assert len(Zoo(out)) == len(raw_zoo)


def test_a_stopped_export_says_what_is_written(raw_zoo, tmp_path, capsys, monkeypatch):
    out = tmp_path / "files"
    interrupted_at(monkeypatch, "weightflow.export.export.with_statistics", 3)
    assert call("export", raw_zoo.path, "--out", out, "-q") == 130
    said = " ".join(capsys.readouterr().err.split())
    assert f"2 of {len(raw_zoo)} networks are in {out}; run the same command again" in said
    assert len(list(out.glob("*.safetensors"))) == 2
    assert call("export", raw_zoo.path, "--out", out, "-q") == 0
    assert len(list(out.glob("*.safetensors"))) == len(raw_zoo)


def interrupt(*arguments, **options):
    raise KeyboardInterrupt
