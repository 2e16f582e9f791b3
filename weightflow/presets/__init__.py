"""Presets: settings of `weightflow train` by name, one TOML file each."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from weightflow import config
from weightflow.names import pick
from weightflow.trainconfig import TrainConfig


def built_in() -> dict[str, Path]:
    folder = Path(str(resources.files("weightflow") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_preset(name: str, changes: dict[str, Any]) -> TrainConfig:
    """The settings of a preset with `changes` laid over them."""
    path = pick(built_in(), name, "preset")
    return config.build(TrainConfig, config.replace_nested(config.read_toml(path), changes))
