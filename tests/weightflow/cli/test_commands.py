"""The commands as a user types them: results, exit codes, one line for what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from canon.cli import console
from weightflow.cli.main import app
from weightflow.zoo.store import shard_path

TINY = [
    "architecture.arguments={inputs=64, hidden=[8]}",
    "tasks.sizes=[2, 3]",
    "tasks.seen=12",
    "tasks.validation=4",
    "tasks.unseen=4",
    "training.steps=10",
    "shard_size=10",
]
SMALL_ZOO = [part for setting in TINY for part in ("--set", setting)]


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def result(capsys):
    return json.loads(capsys.readouterr().out)


def test_the_pipeline_by_its_commands(tmp_path, capsys):
    zoo, canonical, run, nets = (tmp_path / name for name in ("zoo", "canonical", "run", "nets"))
    assert call("zoo", "build", "digits", "--out", zoo, *SMALL_ZOO, "--json") == 0
    assert result(capsys) == {"zoo": str(zoo), "networks": 20, "trained_now": 20}
    assert call("zoo", "verify", zoo) == 0
    assert call("canonicalize", zoo, "--out", canonical) == 0
    settings = [
        "--set",
        "steps=4",
        "--set",
        "model.width=16",
        "--set",
        "model.depth=1",
        "--set",
        "batch_size=4",
    ]
    assert call("train", canonical, "--out", run, "--seed", 3, "--quiet", *settings) == 0
    capsys.readouterr()
    assert call("train", canonical, "--out", run, "--resume", "--json") == 0
    assert result(capsys)["steps"] == 4
    assert call("sample", run, "--classes", "one, two, three", "--count", 2, "--out", nets, "--json") == 0
    assert result(capsys)["networks"] == 2
    assert call("sample", run, "--classes", "one, two = two | second", "--method", "ddim", "--out", nets) == 0
    capsys.readouterr()
    assert call("evaluate", nets, "--json") == 0
    assert result(capsys)["zoo"]["count"] == 1
    assert call("export", nets, "--out", tmp_path / "files") == 0
    assert len(list((tmp_path / "files").glob("*.safetensors"))) == 1
    capsys.readouterr()
    assert call("report", run, "--limit", 3, "--json") == 0
    assert result(capsys)["splits"]["unseen_combinations"]["networks"] == 3
    assert (run / "report.html").exists()
    assert (run / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "{run}", "--classes", "", "--out", "{new}"], "names no class"),
        (["sample", "{run}", "--classes", "one, two, one", "--out", "{new}"], "names 'one' twice"),
        (
            ["sample", "{run}", "--classes", "one, two, three, four, five", "--out", "{new}"],
            "built for 4 at most",
        ),
        (["sample", "{run}", "--classes", "one, two", "--count", "-1", "--out", "{new}"], "--count is -1"),
        (["sample", "{run}", "--classes", "one, \U0001f700", "--out", "{new}"], "wordllama has no vector"),
        (
            ["sample", "{run}", "--classes", "one, two", "--method", "rk5", "--out", "{new}"],
            "'rk5' is not one of 'euler'",
        ),
        (
            ["sample", "{run}", "--classes", "one, two", "--steps", "0", "--out", "{new}"],
            "must be at least 1",
        ),
        (["sample", "{run}", "--classes", "image:cat.png, two", "--out", "{new}"], "reads words alone"),
        (
            ["sample", "{run}", "--classes", "one, two", "--method", "ddpm", "--out", "{new}"],
            "'ddim', 'ancestral'",
        ),
        (["sample", "{zoo}", "--classes", "one, two", "--out", "{new}"], "a canonical zoo, not a run"),
        (["train", "{new}", "--out", "{new}"], "is not a zoo: there is no such"),
        (["train", "{zoo}", "--out", "{run}"], "is not empty"),
        (
            ["train", "{zoo}", "--out", "{new}", "--preset", "weightflo"],
            "'weightflo' is not one of 'weightflow'",
        ),
        (["train", "{zoo}", "--out", "{new}", "--preset", "t2w-small"], "'prior_attention' loses the order"),
        (["zoo", "build", "digits", "--out", "{new}", "--set", "steps=3"], "nearest: training.steps"),
        (["train", "{zoo}", "--out", "{new}", "--set", "stps=3"], "unknown setting 'stps'; nearest: steps"),
        (
            ["train", "{zoo}", "--out", "{new}", "--set", "steps"],
            "'steps' is not a setting; write name=value",
        ),
        (["train", "{zoo}", "--out", "{new}", "--set", "steps=many"], "'steps' is int, found 'many'"),
        (
            ["train", "{zoo}", "--out", "{new}", "--objective", "gan"],
            "'gan' is not one of 'flow', 'diffusion'",
        ),
        (["zoo", "build", "mnist2", "--out", "{new}"], "unknown recipe 'mnist2'"),
        (["report", "{run}", "--limit", "0"], "--limit is 0"),
        (["evaluate", "{run}"], "a run, not a zoo"),
        (["sample"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else value[:20],
)
def test_bad_input_is_one_clear_line(run, zoo, tmp_path, capsys, arguments, message):
    places = {"run": run, "zoo": zoo.path, "new": tmp_path / "new"}
    assert call(*(a.format(**places) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_a_damaged_shard_has_exit_code_1_from_verify(zoo, tmp_path, capsys):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    shard_path(tmp_path / "zoo", 0).unlink()
    assert call("zoo", "verify", tmp_path / "zoo") == 1
    assert "00000.safetensors is missing" in capsys.readouterr().out


def test_a_class_the_run_never_saw_is_no_error(run, tmp_path, capsys):
    assert call("sample", run, "--classes", "seven, eleven", "--out", tmp_path / "nets") == 0
    assert "'eleven' is not a class this run has seen; nearest in meaning: 'ten'" not in (
        e := capsys.readouterr().err
    )
    assert "'eleven' is not a class this run has seen; nearest in meaning: '" in e
    assert "Accuracy is not promised" in e


def test_prompts_come_from_standard_input(run, tmp_path, capsys, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("one, two\nthree, four, five\n"))
    assert call("sample", run, "--prompts", "-", "--count", 2, "--out", tmp_path / "nets", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["classes"], line["networks"]) for line in lines] == [
        (["one", "two"], 2),
        (["three", "four", "five"], 2),
    ]


def test_the_end_of_the_disk_leaves_nothing_half_written(run, tmp_path, capsys, monkeypatch):
    import errno

    import canon.io.files

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(canon.io.files.os, "fsync", full)
    assert call("sample", run, "--classes", "one, two", "--out", tmp_path / "nets") == 1
    assert "No space left" in capsys.readouterr().err
    assert [p for p in (tmp_path / "nets").rglob("*") if p.is_file()] == []


def test_ctrl_c_says_how_to_go_on(zoo, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "weightflow.cli.main", "train", str(zoo.path), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--set", "steps=100000", "--set", "save_every=1", "--set", "model.width=16"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for _ in range(600):
        if (out / "state.safetensors").exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: weightflow train {zoo.path} --out {out} --resume" in error


def test_the_choices_that_help_lists_are_those_that_there_are():
    from typing import get_args

    from weightflow import datasets
    from weightflow.cli import options
    from weightflow.executors import EXECUTORS
    from weightflow.export.export import FORMATS
    from weightflow.flow.denoising import DENOISERS
    from weightflow.flow.schedule import SCHEDULES
    from weightflow.flow.solver import SOLVERS
    from weightflow.training import presets
    from weightflow.zoo import recipe

    assert set(get_args(options.PresetName)) == set(presets.built_in())
    assert set(get_args(options.SolverName)) == {*SOLVERS, *DENOISERS}
    assert set(get_args(options.PathName)) == set(SCHEDULES)
    assert set(get_args(options.ExecutorName)) == set(EXECUTORS)
    assert set(get_args(options.FormatName)) == {*FORMATS, "pretrained"}
    named = options.RECIPES.partition(";")[0].split(", ")
    assert set(named) == {name for name in recipe.built_in() if not name.endswith("-small")}
    own = datasets._OWN
    assert [name.partition(":")[0] for name in options.DATASETS.split(", ")[:-1]] == list(own)


@pytest.mark.parametrize("kind", ["recipes", "presets", "architectures", "datasets", "encoders"])
def test_list_describes_every_name(capsys, kind):
    assert call("list", kind, "--json") == 0
    found = result(capsys)
    assert len(found) >= 4
    assert all(found.values())
    assert call("list", "networks") == 2


def test_version_is_that_of_the_package(capsys):
    import canon
    import weightflow
    from canon.cli.main import app as canon_app

    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == weightflow.__version__
    assert console.run_cli(canon_app, ["--version"], name="canon") == 0
    assert capsys.readouterr().out.strip() == canon.__version__


@pytest.mark.parametrize("typed", [("trian", "x"), ("train", "x", "--otu", "y"), ("zoo", "biuld")])
def test_a_typo_gets_a_suggestion(capsys, typed):
    assert call(*typed) == 2
    said = capsys.readouterr().err
    assert {"trian": "train", "train": "--out", "zoo": "build"}[typed[0]] in said
