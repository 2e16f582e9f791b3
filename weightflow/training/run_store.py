"""A run on disk: settings, layout, averaged and raw weights, and the state to go on from.

config.toml               every setting, defaults included, the zoo's identity, and what must be known of
                          the data to use the networks without it
layout.json               architecture and layout
metrics.jsonl             one line an event
checkpoint.safetensors    raw.*, average.*, coordinates.*, frame.*: what sampling needs
state.safetensors         everything that an exact resume needs, written whole or not at all
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import atomic_write
from weightflow import config as settings
from weightflow import datasets
from weightflow import representation as coordinate_kinds
from weightflow.datasets import Facts
from weightflow.networks.architectures import Architecture
from weightflow.representation import Coordinates
from weightflow.representation.layout import Layout
from weightflow.training.config import TrainConfig
from weightflow.training.state_dicts import pack, unpack

FORMAT = "weightflow-run-1"


@dataclass(frozen=True)
class ZooReference:
    """Which zoo a run learned from; the identity changes when any network of it does.

    `classes` are those of every network, in logit order, where all networks have one task.
    """

    path: str
    identity: str
    dataset: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunHeader:
    """What is fixed before the first step."""

    config: TrainConfig
    zoo: ZooReference
    architecture: Architecture
    layout: Layout
    encoder: str
    data: Facts


def write_header(folder: Path, header: RunHeader) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "format": FORMAT,
        "encoder_identity": header.encoder,
        "zoo": dataclasses.asdict(header.zoo),
        "data": header.data.to_dict(),
        "train": settings.to_dict(header.config),
    }
    shape = {"architecture": header.architecture.to_dict(), "layout": header.layout.to_dict()}
    atomic_write(folder / "layout.json", json.dumps(shape, indent=1))
    atomic_write(folder / "config.toml", tomli_w.dumps(tables))


def read_header(folder: Path) -> RunHeader:
    """`InputError` where the folder is no run, or one of a format that this version cannot read."""
    if not (folder / "config.toml").exists():
        raise InputError(f"{folder} is not a run: it has no config.toml; make one with `weightflow train`")
    tables = settings.read_toml(folder / "config.toml")
    if tables.get("format") != FORMAT:
        raise InputError(
            f"{folder} is a run of format {tables.get('format')!r}; this version reads {FORMAT!r}: train it again"
        )
    try:
        shape = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        return RunHeader(
            config=settings.build(TrainConfig, tables["train"], "train."),
            zoo=settings.build(ZooReference, tables["zoo"], "zoo."),
            architecture=Architecture.from_dict(shape["architecture"]),
            layout=Layout.from_dict(shape["layout"]),
            encoder=tables["encoder_identity"],
            data=_facts(tables),
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} is damaged ({error!r}); train the run again") from None


def _facts(tables: Mapping[str, Any]) -> Facts:
    if "data" in tables:
        return Facts.from_dict(tables["data"])
    return Facts.of(datasets.load(tables["zoo"]["dataset"]))  # the first runs did not note it


def write_checkpoint(
    folder: Path,
    raw: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    coordinates: Coordinates,
    frame: Mapping[str, Tensor],
    step: int,
) -> None:
    tensors = {
        **pack("raw", raw),
        **pack("average", average),
        **pack("coordinates", coordinates.tensors()),
        **pack("frame", frame),
    }
    checkpoint.write(folder / "checkpoint.safetensors", tensors, {"format": FORMAT, "step": str(step)})


@dataclass(frozen=True)
class Weights:
    """The averaged weights of a run, the coordinates they live in, and the frame of its zoo.

    The frame is empty where the run was trained on a zoo that is not canonical.
    """

    average: dict[str, Tensor]
    coordinates: Coordinates
    frame: dict[str, Tensor]


def read_checkpoint(folder: Path, header: RunHeader) -> Weights:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        raise InputError(
            f"{folder} has no checkpoint yet; go on with: weightflow train {header.zoo.path} --out {folder} --resume"
        )
    tensors = checkpoint.read(path).state
    coordinates = coordinate_kinds.restore(
        header.config.coordinates, header.architecture, header.layout, unpack("coordinates", tensors)
    )
    return Weights(unpack("average", tensors), coordinates, unpack("frame", tensors))


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def cut_metrics(folder: Path, step: int) -> None:
    """Drop what was logged after the step that a run goes on from."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    atomic_write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
