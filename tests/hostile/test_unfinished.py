"""Killed or full: the same command goes on, nothing that was there before is lost."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys

import pytest

import canon.io.files
from canon.cli import console
from canon.errors import InputError
from canon.io.files import atomic_write
from weightflow.cli.main import app
from weightflow.generator import hub_model, populations
from weightflow.report import parts
from weightflow.training import run_store, trainer
from weightflow.zoo import unfinished
from weightflow.zoo.builders import file_lock
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.store import Zoo


def call(*arguments):
    return console.run_cli(app, [str(argument) for argument in arguments], name="weightflow")


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs, as far as a test can show."""


def killed_after(monkeypatch, count):
    """The process dies at the rename number `count`."""
    real, seen = os.replace, []

    def replace(*arguments):
        seen.append(arguments)
        if len(seen) > count:
            os._exit(9)
        return real(*arguments)

    monkeypatch.setattr(canon.io.files.os, "replace", replace)


def in_a_process_that_dies(work, monkeypatch, count):
    child = os.fork()
    if not child:
        killed_after(monkeypatch, count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 9 << 8


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def until_done(work, monkeypatch, folder, count=20):
    """Kill the work at each of its renames; then it runs again, to the same files as uninterrupted."""
    work()
    whole = files(folder)
    for number in range(count):
        shutil.rmtree(folder)
        if not in_a_process_that_dies(work, monkeypatch, number):
            return number
        work()
        assert files(folder) == whole, f"killed at rename {number}"
    raise AssertionError("never finished")


def test_canonicalize_goes_on_wherever_it_was_killed(raw_zoo, tmp_path, monkeypatch):
    def work():
        return canonicalize_zoo(raw_zoo, tmp_path / "out")

    assert until_done(work, monkeypatch, tmp_path / "out") > 3


def test_sampling_goes_on_wherever_it_was_killed(run, tmp_path, monkeypatch):
    def work():
        return call("sample", run, "--classes", "one, two", "--count", "3", "--out", tmp_path / "out", "-q")

    assert until_done(work, monkeypatch, tmp_path / "out") > 3


def test_training_goes_on_wherever_it_was_killed(zoo, tiny_config, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny_config, steps=2, save_every=1, evaluate_every=10)

    def work():
        folder = tmp_path / "out"
        on = trainer.resume(zoo, folder) if trainer.is_begun(folder) else trainer.start(zoo, config, folder)
        on.run()
        (folder / "metrics.jsonl").unlink(missing_ok=True)  # it notes seconds

    assert until_done(work, monkeypatch, tmp_path / "out", 40) > 3


def test_import_goes_on_wherever_it_was_killed(raw_zoo, tmp_path, monkeypatch):
    assert call("export", raw_zoo.path, "--count", 3, "--out", tmp_path / "files", "-q") == 0

    def work():
        return call(
            "zoo", "import", tmp_path / "files", "--dataset", "digits", "--out", tmp_path / "out", "-q"
        )

    assert until_done(work, monkeypatch, tmp_path / "out") > 3


@pytest.mark.parametrize("count", range(8))
def test_an_earlier_population_survives_a_kill(run, tmp_path, monkeypatch, count):
    out = tmp_path / "out"
    old = ["sample", run, "--classes", "one, two", "--out", out, "-q"]
    new = ["sample", run, "--classes", "three, four", "--count", 2, "--out", out, "-q"]
    assert call(*old) == 0
    in_a_process_that_dies(lambda: call(*new), monkeypatch, count)
    unfinished.recover(out)
    assert not Zoo(out).verify()
    assert len(Zoo(out)) in (1, 2)
    assert call(*new) == 0
    assert Zoo(out).records[0].classes == ("three", "four")
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_an_earlier_population_survives_a_full_disk(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert call("sample", run, "--classes", "one, two", "--out", out, "-q") == 0
    before = files(out)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(canon.io.files.os, "fsync", full)
    assert call("sample", run, "--classes", "three, four", "--out", out) == 1
    assert files(out) == before
    assert os.listdir(tmp_path) == ["out"]


def no_space(*arguments, **more):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_sampling_whose_manifest_was_not_written_is_not_said_to_be_sound(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    for earlier in (False, True):
        monkeypatch.setattr(populations, "write_manifest", no_space)
        assert call("sample", run, "--classes", "one, two", "--out", out) == 1
        state = "is as it was" if earlier else "is not finished"
        assert f"{out} {state}; run the same command again, which" in capsys.readouterr().err
        monkeypatch.undo()
        assert call("sample", run, "--classes", "one, two", "--out", out, "-q") == 0
        assert os.listdir(tmp_path) == ["out"]


def test_a_generator_that_was_not_written_is_named(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hub_model.HubModel, "generate_model_card", no_space)
    assert call("export", run, "--format", "pretrained", "--out", tmp_path / "out") == 1
    assert f"error: {tmp_path}/out was not written: No space left" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_part_of_a_report_that_was_not_written_is_not_kept(tmp_path, monkeypatch):
    kept = parts.Parts(tmp_path / "x.json")
    kept.get("a", lambda: 1)
    monkeypatch.setattr(parts, "atomic_write", no_space)
    with pytest.raises(OSError, match="No space"):
        kept.get("b", lambda: 2)
    assert len(kept) == 1


def test_a_state_that_was_not_written_is_not_said_to_be_saved(run, zoo, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    found = trainer.resume(zoo, tmp_path / "run")
    found.progress, saved = dataclasses.replace(found.progress, step=100), found.saved
    monkeypatch.setattr(trainer.checkpoint, "write", no_space)
    with pytest.raises(OSError, match="No space"):
        found.save()
    assert found.saved == saved


def test_a_lock_on_a_read_only_disk_is_wrong_input(tmp_path, monkeypatch):
    def read_only(*arguments, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(file_lock.FileLock, "acquire", read_only)
    with (
        pytest.raises(InputError, match="lock cannot be written: Read-only"),
        file_lock.holding(tmp_path / ".lock", wait=False),
    ):
        pass


def test_a_checkpoint_older_than_the_state_is_written_again(run, zoo, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    whole = path.read_bytes()
    header = run_store.read_header(run)
    weights = run_store.read_checkpoint(run, header)
    run_store.write_checkpoint(
        tmp_path / "run", {}, weights.average, weights.coordinates, weights.frame, 1, 1
    )
    assert path.read_bytes() != whole
    trainer.resume(zoo, tmp_path / "run")
    assert path.read_bytes() == whole


def test_work_of_others_is_never_removed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="is not an empty folder"):
        unfinished.begin(tmp_path, "weightflow sample")
    unfinished.mark(tmp_path, "another command")
    with pytest.raises(InputError, match="is not an empty folder"):
        unfinished.begin(tmp_path, "weightflow sample")
    assert (tmp_path / "mine").read_text() == "precious"


def test_temporary_files_of_dead_writers_go_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = canon.io.files._HOST
    left = [
        tmp_path / f".x.{number}@{end}.tmp"
        for number, end in ((dead.pid, host), (os.getppid(), host), (dead.pid, "elsewhere"))
    ]
    for path in left:
        path.write_text("")
    atomic_write(tmp_path / "x", "new")
    assert [path.exists() for path in left] == [False, True, True]


@pytest.mark.parametrize("command", ["sample {run} --classes one,two", "train {zoo}", "export {zoo}"])
def test_a_name_that_is_too_long_is_wrong_input(zoo, run, tmp_path, capsys, command):
    assert call(*command.format(zoo=zoo.path, run=run).split(), "--out", tmp_path / ("x" * 300)) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        "zoo build digits",
        "train {zoo}",
        "canonicalize {zoo}",
        "sample {run} --classes one,two",
        "export {zoo}",
        "export {run} --format pretrained",
        "report {run}",
        "demo",
    ],
)
@pytest.mark.parametrize("below", ["", "/run"])
def test_a_file_in_the_place_of_a_folder_is_wrong_input(zoo, run, tmp_path, capsys, command, below):
    (tmp_path / "file").write_text("precious")
    out = f"{tmp_path}/file{below}"
    assert call(*command.format(zoo=zoo.path, run=run).split(), "--out", out) == 2
    assert f"error: {out} cannot be written: {tmp_path}/file is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


def test_a_link_to_a_population_is_replaced_and_what_it_points_to_stays(run, tmp_path):
    assert call("sample", run, "--classes", "one,two", "--out", tmp_path / "old", "-q") == 0
    before = files(tmp_path / "old")
    (tmp_path / "out").symlink_to("old")
    for _ in range(2):
        assert call("sample", run, "--classes", "three,four", "--out", tmp_path / "out", "-q") == 0
        assert sorted(os.listdir(tmp_path)) == ["old", "out"]
        assert files(tmp_path / "old") == before
