"""Numbers of a run to a callback, and to a logger of a library."""

import json

import pytest

import weightflow
from canon.errors import InputError
from weightflow.training.config import TrainConfig
from weightflow.training.loggers import logging_to

SETTINGS = {"model.width": 16, "model.depth": 1, "evaluate_every": 2, "behaviour.weight": 0}


def test_numbers_reach_a_callback_as_they_are_in_the_file(zoo, tmp_path):
    found = []
    weightflow.train(
        zoo, tmp_path / "run", steps=4, settings=SETTINGS, metrics=lambda m: found.append(dict(m))
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found == lines
    assert [one["step"] for one in found] == [2, 4]
    assert all(isinstance(value, (int, float)) for one in found for value in one.values())


def test_a_logger_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown logger 'paper'; there are: tensorboard"):
        logging_to(["paper"], tmp_path, TrainConfig()).__enter__()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'weightflow\[log\]'"):
        logging_to(["tensorboard"], tmp_path, TrainConfig()).__enter__()


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
