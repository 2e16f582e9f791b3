"""Whole files of another run or zoo of the same shapes, sound each by itself, are not used as one's own."""

import shutil

import pytest

import weightflow
from canon.cli import console
from canon.errors import InputError
from weightflow.cli.main import app
from weightflow.training import trainer
from weightflow.training.run_store import read_header
from weightflow.zoo.canonicalize import read_frame
from weightflow.zoo.store import Zoo, write_zoo


@pytest.fixture(scope="module")
def other(zoo, run, tmp_path_factory):
    """A run of the same zoo and settings as `run`, with another seed."""
    folder = tmp_path_factory.mktemp("other") / "run"
    config = read_header(run).config
    trainer.start(zoo, type(config)(**{**vars(config), "seed": config.seed + 1}), folder).run()
    return folder


@pytest.fixture
def mixed(run, other, tmp_path):
    """`run` with one file of `other`."""

    def made(name):
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        shutil.copyfile(other / name, folder / name)
        return folder

    return made


def call(*arguments):
    return console.run_cli(app, [str(argument) for argument in arguments], name="weightflow")


def test_the_checkpoint_of_another_run_is_refused(mixed, zoo, tmp_path, capsys):
    folder = mixed("checkpoint.safetensors")
    with pytest.raises(InputError, match="is of another run"):
        weightflow.load(folder)
    with pytest.raises(InputError, match="is of another run"):
        trainer.resume(zoo, folder)
    assert call("sample", folder, "--classes", "one, two", "--out", tmp_path / "nets") == 2
    assert "is of another run" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "nets").exists()
    assert call("verify", folder) == 1
    assert "is of another run" in capsys.readouterr().out


def test_the_state_of_another_run_is_refused(mixed, zoo, capsys):
    folder = mixed("state.safetensors")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="is of another run"):
        trainer.resume(zoo, folder)
    assert {path: path.read_bytes() for path in before} == before
    assert call("verify", folder) == 1
    assert "is of another run" in capsys.readouterr().out


def test_a_run_that_is_trained_on_keeps_its_identity(run, zoo, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = read_header(run)
    longer = trainer.resume(zoo, tmp_path / "run", {"steps": before.config.steps + 2})
    longer.run()
    assert read_header(tmp_path / "run").identity == before.identity != ""
    assert len(weightflow.load(tmp_path / "run").sample("one, two", 2)) == 2


def test_a_saved_generator_keeps_the_identity_of_its_run(run, other, tmp_path):
    for name, source in (("own", run), ("other", other)):
        weightflow.load(source).save_pretrained(tmp_path / name)
    assert read_header(tmp_path / "own").identity == read_header(run).identity
    shutil.copyfile(
        tmp_path / "other" / "checkpoint.safetensors", tmp_path / "own" / "checkpoint.safetensors"
    )
    with pytest.raises(InputError, match="is of another run"):
        weightflow.load(tmp_path / "own")


def test_the_frame_of_another_zoo_is_refused(zoo, raw_zoo, tmp_path, capsys):
    few = raw_zoo.rows("seen")[:4]
    write_zoo(tmp_path / "raw", raw_zoo.header, raw_zoo.load(few), [raw_zoo.records[i] for i in few])
    weightflow.canonicalize(tmp_path / "raw", tmp_path / "other")
    shutil.copytree(zoo.path, tmp_path / "zoo")
    shutil.copyfile(tmp_path / "other" / "frame.safetensors", tmp_path / "zoo" / "frame.safetensors")
    with pytest.raises(InputError, match="is the frame of another zoo"):
        read_frame(Zoo(tmp_path / "zoo"))
    assert call("verify", tmp_path / "zoo") == 1
    assert "is the frame of another zoo" in capsys.readouterr().out
