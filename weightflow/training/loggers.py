"""Metrics of a run to a logger: TensorBoard, Weights & Biases, trackio, MLflow and others, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canon.errors import InputError
from weightflow.config import to_dict
from weightflow.training.config import TrainConfig

LOGGERS = ("tensorboard", "wandb", "trackio", "mlflow")
PROJECT = "weightflow"


@contextmanager
def logging_to(
    names: list[str], folder: Path, config: TrainConfig
) -> Iterator[Callable[[Mapping[str, int | float]], None]]:
    """What takes the numbers of each evaluation and sends them to each logger, closed with the block.

    TensorBoard, Weights & Biases and MLflow write below the run's folder (`tensorboard`, `wandb`, `mlflow.db`) unless
    their own settings say where (`WANDB_DIR`, `MLFLOW_TRACKING_URI`); trackio in its own folder (`TRACKIO_DIR`).
    `InputError` where a logger is not known or its package is not installed.
    """
    require(names)
    trackers = [_tracker(name, folder) for name in names]
    settings = {key: value for key, value in _flat(to_dict(config))}

    def log(metrics: Mapping[str, int | float]) -> None:
        numbers = {name: value for name, value in metrics.items() if name != "step"}
        for tracker in trackers:
            tracker.log(numbers, step=int(metrics["step"]))

    for tracker in trackers:
        tracker.store_init_configuration(settings)
    try:
        yield log
    finally:
        for tracker in trackers:
            tracker.finish()


def require(names: list[str]) -> None:
    """`InputError` where a logger is not known, or the package that all are reached through is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"unknown logger '{name}'; there are: {', '.join(LOGGERS)}")
    if names and importlib.util.find_spec("accelerate") is None:
        raise InputError("loggers need the package accelerate; install them: pip install 'weightflow[log]'")


def _tracker(name: str, folder: Path) -> Any:
    from accelerate import PartialState, tracking

    PartialState(cpu=True)
    kind = tracking.LOGGER_TYPE_TO_CLASS[name]
    try:
        found = kind(name if name == "tensorboard" else PROJECT, **_place(name, folder))
        if hasattr(found, "start"):  # some loggers are started after they are created
            found.start()
        return found
    except (ImportError, NameError) as error:  # accelerate raises NameError where the package is missing
        raise InputError(
            f"--log {name} needs its package ({error}); install it: pip install {name}"
        ) from None
    except Exception as error:  # no account, no connection, a database in use: classes of each logger
        raise InputError(f"--log {name} cannot be started: {error}") from error


def _place(name: str, folder: Path) -> dict[str, str]:
    """Where a logger writes, as its own argument: below `folder`, unless its own settings name another place."""
    if name == "tensorboard":
        return {"logging_dir": str(folder)}
    if name == "wandb":
        return {} if "WANDB_DIR" in os.environ else {"dir": str(folder)}
    if name == "mlflow":
        import mlflow

        if not mlflow.is_tracking_uri_set():
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
            return {"logging_dir": str(folder.resolve() / "mlflow")}
    return {}


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; lists and tables as text, which is all that loggers take."""
    for key, value in tables.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
