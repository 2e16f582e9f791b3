"""The README is true: its Python runs, its commands exist, its tables come from the results."""

import importlib.util
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from benchmarks.readme import README, filled
from canon.cli import console
from canon.cli.main import app as canon_app
from weightflow.cli.main import app as weightflow_app

TEXT = README.read_text(encoding="utf-8")


def test_tables_are_what_the_benchmarks_wrote():
    assert filled(TEXT) == TEXT


def commands(tool, app):
    names = set()

    def walk(command, path):
        children = getattr(command, "commands", None)
        if children is None:
            names.add(" ".join(path))
            return
        for name, child in children.items():
            walk(child, [*path, name])

    walk(get_command(app), [tool])
    return names


@pytest.mark.parametrize(
    "line", re.findall(r"^    (?:\S.*&& )?((?:weightflow|canon) .*)$", TEXT, re.MULTILINE)
)
def test_every_command_shown_exists(line):
    known = commands("weightflow", weightflow_app) | commands("canon", canon_app)
    assert any(line.split("   ")[0].startswith(name) for name in known), line


def test_commands_of_use_run_in_order(run, tmp_path, monkeypatch):
    section = TEXT.partition("## What networks are for")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (.*weightflow .*)$", section, re.MULTILINE)
    assert len(lines) >= 8
    missing = [p for p in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(p) is None]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        typed, _, command = line.rpartition(" | ")
        if typed:
            monkeypatch.setattr("sys.stdin", io.StringIO(typed.split("'")[1].replace("\\n", "\n")))
        if not ("--format onnx" in line and missing):
            code = console.guarded(weightflow_app, shlex.split(command)[1:], name="weightflow")
            assert code == 0, line


def test_python_blocks_run(run, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    shutil.copytree(run, tmp_path / "demo" / "run")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(Path(README)), "exec"), {})
