"""Presets: settings of `weightflow train` by name, one TOML file each; `NAME-small` is for trying out."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from weightflow import config
from weightflow.registry import pick
from weightflow.training.config import TrainConfig


def built_in() -> dict[str, Path]:
    return config.by_name(Path(str(resources.files("weightflow.training.presets"))))


def read_preset(name: str, changes: dict[str, Any]) -> TrainConfig:
    """The settings of a preset with `changes` laid over them."""
    path = pick(built_in(), name, "preset")
    tables = config.at_size(config.read_toml(path), name.endswith(config.SMALL))
    return config.build(TrainConfig, config.replace_nested({"preset": name, **tables}, changes))
