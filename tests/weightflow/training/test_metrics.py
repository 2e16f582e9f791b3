"""Numbers of a run to a callback, and to a logger of a library."""

import json
import re
import sqlite3
import time

import pytest

import weightflow
from canon.errors import InputError, InputWarning
from weightflow.training.config import TrainConfig
from weightflow.training.loggers import logging_to
from weightflow.training.run_store import append_metrics, read_metrics

SETTINGS = {"model.width": 16, "model.depth": 1, "evaluate_every": 2, "behaviour.weight": 0}


def test_numbers_reach_a_callback_as_they_are_in_the_file(zoo, tmp_path):
    found = []
    weightflow.train(
        zoo, tmp_path / "run", steps=4, settings=SETTINGS, metrics=lambda m: found.append(dict(m))
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found == [{name: value for name, value in line.items() if name != "crc32"} for line in lines]
    assert [one["step"] for one in found] == [2, 4]
    assert all(isinstance(value, (int, float)) for one in lines for value in one.values())


def test_damaged_lines_are_left_out_with_a_warning(tmp_path):
    for step in (2, 4, 6):
        append_metrics(tmp_path, {"step": step, "held_out": 0.125 * step})
    whole = (tmp_path / "metrics.jsonl").read_text()
    assert [line["held_out"] for line in read_metrics(tmp_path)] == [0.25, 0.5, 0.75]
    for damaged in (whole.replace("0.5", "0.7"), whole.replace('"held_out": 0.5', '"held_out": "x"')):
        (tmp_path / "metrics.jsonl").write_text(damaged)
        with pytest.warns(InputWarning, match="1 damaged line, left out"):
            assert [line["step"] for line in read_metrics(tmp_path)] == [2, 6]
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "held_out": 1.0}\n')  # of an earlier version
    assert read_metrics(tmp_path) == [{"step": 2, "held_out": 1.0}]


def test_a_logger_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown logger 'paper'; there are: tensorboard"):
        logging_to(["paper"], tmp_path, TrainConfig()).__enter__()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'weightflow\[log\]'"):
        logging_to(["tensorboard"], tmp_path, TrainConfig()).__enter__()


def test_a_logger_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    tracking = pytest.importorskip("accelerate", reason="the extra [log] is not installed").tracking

    class Refusing:
        def __init__(self, name, **settings):
            raise RuntimeError("no API key configured")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Refusing)
    with pytest.raises(InputError, match="--log wandb cannot be started: no API key"):
        logging_to(["wandb"], tmp_path, TrainConfig()).__enter__()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_numbers(tmp_path):
    pytest.importorskip("accelerate", reason="the extra [log] is not installed")
    pytest.importorskip("tensorboard", reason="the extra [log] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logging_to(["tensorboard"], tmp_path, TrainConfig()) as log:
        for step in (2, 4):
            log({"step": step, "held_out": 1.0 / step, "seconds": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("held_out")] == [(2, 0.5), (4, 0.25)]


def numbers_of_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'weightflow'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["steps"] == str(TrainConfig().steps)
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "held_out")]


def numbers_of_trackio(folder):
    with sqlite3.connect(folder / "own" / "weightflow.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    return [(step, json.loads(metrics)["held_out"]) for step, metrics in rows]


def numbers_of_wandb(folder):
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    # another process writes the file, and goes on for a moment: the name and the number stand side by side in it
    for _ in range(300):
        found = re.findall(rb"held_out[^0-9]{1,8}(0\.\d+)", file.read_bytes())
        if {b"0.5", b"0.25"} <= set(found):
            break
        time.sleep(0.1)
    return [(step, 1.0 / step) for step in (2, 4) if f"{1.0 / step}".encode() in found]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlflow", "trackio", "wandb"])
def test_a_logger_of_a_library_has_the_numbers_below_the_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "own"))
    pytest.importorskip("accelerate", reason="the extra [log] is not installed")
    pytest.importorskip(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with logging_to([name], tmp_path, TrainConfig()) as log:
        for step in (2, 4):
            log({"step": step, "held_out": 1.0 / step, "seconds": 0.5})
    assert globals()[f"numbers_of_{name}"](tmp_path) == [(2, 0.5), (4, 0.25)]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("held_out", [10**400, -(10**400), 2**1024])
def test_a_whole_number_beyond_float64_is_damage(held_out, tmp_path):
    append_metrics(tmp_path, {"step": 1, "held_out": 0.5})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 2, "held_out": held_out}) + "\n")
    with pytest.warns(InputWarning, match="has 1 damaged line, left out"):
        assert [line["step"] for line in read_metrics(tmp_path)] == [1]
