"""A run on disk: settings, layout, averaged and raw weights, and the state to resume from.

config.toml               every setting, defaults included, the zoo's identity, and what must be known of
                          the data to use the networks without it
layout.json               architecture and layout
metrics.jsonl             one line an event
checkpoint.safetensors    raw.*, average.*, coordinates.*, frame.*: what sampling needs
state.safetensors         everything that an exact resume needs, written whole or not at all

A run that has not saved since its first step has a state and no checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from canon.errors import InputError, InputWarning
from canon.io import checkpoint
from canon.io.digests import KEY, checked, with_digest
from canon.io.files import atomic_write, read_bounded, reading
from canon.validation import (
    Invalid,
    either,
    having,
    integer,
    many,
    nothing,
    number,
    optional,
    parse_json,
    table,
    text,
)
from weightflow import config as settings
from weightflow import datasets, folders
from weightflow import representation as coordinate_kinds
from weightflow.batched.class_axes import check_frame
from weightflow.datasets import DataInfo
from weightflow.folders import wrong_kind
from weightflow.networks.architectures import Architecture
from weightflow.representation import Coordinates
from weightflow.representation.layout import Layout
from weightflow.training.config import TrainConfig
from weightflow.training.state_dicts import pack, unpack
from weightflow.zero_shot.pictures import FILE as PICTURES

FORMAT = "weightflow-run-1"
RETIRED = (("behaviour", "distillation"),)
"""Settings of earlier releases (section and name) that are read where they are 0."""
CONFIG, LAYOUT, CHECKPOINT, STATE = (
    folders.CONFIG,
    "layout.json",
    "checkpoint.safetensors",
    "state.safetensors",
)
METRICS, REPORT = "metrics.jsonl", "report.json"
# what a saved generator brings beside these: its table of text vectors and its backbone
TABLE, BACKBONE = "vectors.npz", "backbone.safetensors"
RUN = "run"  # the entry of the metadata that says of which run a file is
LIMIT = 1 << 28  # bytes of a table or of a log


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
    """What is fixed before the first step.

    `identity` tells the run from others: its checkpoint and its state carry it (empty in runs of earlier releases).
    """

    config: TrainConfig
    zoo: ZooReference
    architecture: Architecture
    layout: Layout
    encoder: str
    data: DataInfo
    identity: str = ""


def write_header(folder: Path, header: RunHeader) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "format": FORMAT,
        "identity": header.identity,
        "encoder_identity": header.encoder,
        "zoo": dataclasses.asdict(header.zoo),
        "data": header.data.to_dict(),
        "train": settings.to_dict(header.config),
    }
    shape = {"architecture": header.architecture.to_dict(), "layout": header.layout.to_dict()}
    atomic_write(folder / LAYOUT, json.dumps(with_digest(shape), indent=1))
    atomic_write(folder / CONFIG, tomli_w.dumps(with_digest(tables)))


def read_header(folder: Path) -> RunHeader:
    """`InputError` where the folder is not a run, or one of a format that this version cannot read."""
    if not has_config(folder):
        raise wrong_kind(folder, "a run")
    tables = settings.read_toml(folder / CONFIG)
    if "format" not in tables:
        raise wrong_kind(folder, "a run")
    if tables.get("format") != FORMAT:
        raise InputError(
            f"{folder} is a run of format {tables.get('format')!r}; this version reads {FORMAT!r}: train it again"
        )
    tables = checked(folder / CONFIG, tables)
    with reading(folder, "restore it, or train the run again"):
        path = folder / LAYOUT
        shape = checked(path, parse_json(read_bounded(path, LIMIT)))
        architecture, layout = (
            Architecture.from_dict(shape["architecture"]),
            Layout.from_dict(shape["layout"]),
        )
        layout.check(architecture.shapes)
        return RunHeader(
            config=settings.build(TrainConfig, _without_retired(tables["train"]), "train."),
            zoo=settings.build(ZooReference, tables["zoo"], "zoo."),
            architecture=architecture,
            layout=layout,
            encoder=text()(tables["encoder_identity"]),
            data=_facts(tables),
            identity=text()(tables.get("identity", "")),
        )


def _without_retired(train: Any) -> Any:
    """Settings that runs of earlier releases have, without those that no longer exist and were off."""
    if not isinstance(train, dict):
        return train
    kept = dict(train)
    for section, name in RETIRED:
        own = kept.get(section)
        if isinstance(own, dict) and own.get(name) == 0:
            kept[section] = {key: value for key, value in own.items() if key != name}
    return kept


def _facts(tables: Mapping[str, Any]) -> DataInfo:
    if "data" in tables:
        return DataInfo.from_dict(tables["data"])
    return DataInfo.of(datasets.load(tables["zoo"]["dataset"]))  # the first runs did not note it


def write_checkpoint(
    folder: Path,
    raw: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    coordinates: Coordinates,
    frame: Mapping[str, Tensor],
    step: int,
    trained: int | None = None,
    run: str = "",
) -> None:
    """Write what sampling needs: averaged weights as of `step`, in a run of `trained` steps so far; its identity is `run`."""
    tensors = {
        **pack("raw", raw),
        **pack("average", average),
        **pack("coordinates", coordinates.tensors()),
        **pack("frame", frame),
    }
    said = {"format": FORMAT, RUN: run, "step": str(step)}
    if trained is not None:
        said["trained"] = str(trained)
    checkpoint.write(folder / CHECKPOINT, tensors, said)


def checkpoint_step(folder: Path, header: RunHeader | None = None) -> int | None:
    """How many steps the run of a checkpoint had taken; None where there is none, or none that can be read.

    `InputError` where it is of another run than `header`.
    """
    path = folder / CHECKPOINT
    try:
        found = checkpoint.read(path)
        step = int(found.metadata["trained"])
    except (InputError, KeyError, ValueError):
        return None
    if header is not None:
        require_own(found, path, header)
    return step


def identity_of(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors, whatever file they lie in."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Weights:
    """The averaged weights of a run, the coordinates they live in, and the frame of its zoo.

    The frame is empty where the run was trained on a zoo that is not canonical. The weights are those of `step`, in a
    run of `trained` steps so far (None where the file does not say).
    """

    average: dict[str, Tensor]
    coordinates: Coordinates
    frame: dict[str, Tensor]
    step: int = 0
    trained: int | None = None


def read_checkpoint(folder: Path, header: RunHeader) -> Weights:
    path = folder / CHECKPOINT
    if not path.exists():
        raise InputError(
            f"{folder} has no checkpoint yet; go on with: weightflow train {header.zoo.path} --out {folder} --resume"
        )
    found = checkpoint.read(path)
    require_own(found, path, header)
    tensors = found.state
    checkpoint.require_finite(tensors, str(path))
    with reading(path, "restore it, or train the run again"):
        coordinates = coordinate_kinds.restore(
            header.config.coordinates, header.architecture, header.layout, unpack("coordinates", tensors)
        )
        frame = unpack("frame", tensors)
        if frame:
            check_frame(frame, header.architecture, len(header.data.classes))
        step, trained = int(found.metadata.get("step", "0")), found.metadata.get("trained")
        steps = None if trained is None else int(trained)
    return Weights(unpack("average", tensors), coordinates, frame, step, steps)


def require_own(found: checkpoint.Checkpoint, path: Path, header: RunHeader) -> None:
    """`InputError` where a checkpoint or a state is of another run than the settings beside it, if both say of which."""
    own, run = header.identity, found.metadata.get(RUN, "")
    if own and run and own != run:
        raise InputError(
            f"{path} is of another run ({run[:12]}) than {path.parent / CONFIG} ({own[:12]}); restore the files of one run"
        )


def verify_run(folder: Path) -> list[str]:
    """One line for each missing or damaged file of a run or saved generator; empty if there is none."""
    problems = []

    def attempt(read: Callable[[], object]) -> None:
        try:
            read()
        except InputError as error:
            problems.append(str(error))

    attempt(lambda: read_header(folder))
    for name in (
        CHECKPOINT,
        STATE,
        BACKBONE,
        PICTURES,
    ):
        if (folder / name).exists():
            attempt(lambda path=folder / name: checkpoint.read(path))  # type: ignore[misc]
        elif name == CHECKPOINT:
            problems.append(f"{folder / name} is missing; go on with the training, or restore it")
    if (folder / REPORT).exists():
        attempt(lambda: read_report(folder))
    if not problems:
        attempt(lambda: _check_together(folder))
    return problems


def _check_together(folder: Path) -> None:
    """`InputError` where files that are sound each are of different runs."""
    header = read_header(folder)
    read_checkpoint(folder, header)
    if (folder / STATE).exists():
        require_own(checkpoint.read(folder / STATE), folder / STATE, header)


def read_report(folder: Path) -> dict[str, Any] | None:
    """The figures of a run's report that go into its card, or None where it has none.

    `weights` is the identity of the weights that were measured. It is left out where the report carries no digest: it
    may have been edited.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    with reading(path, f"write it again: weightflow report {folder}"):
        found = parse_json(read_bounded(path, LIMIT))
        report = _REPORT(checked(path, found))
        if KEY not in found:
            report.pop("weights", None)
        return report


_MEAN = having({"mean": number})
# what the model card says of it
_REPORT = having(
    {
        "splits": table(
            text(),
            either(
                nothing,
                text(limit=10_000),
                having({"accuracy": _MEAN, "trained": _MEAN, "chance": number}),
            ),
        ),
    },
    {
        "weights": text(r"[0-9a-f]{64}"),
        "novelty": having({}, {"nearest_distance_ratio": optional(number)}),
        "environment": having({}, {"torch": optional(text()), "commit": optional(text())}),
    },
)


SUM = "crc32"
"""The number in each line of the log by which damage is noticed."""
_EVALUATION = having({"step": integer(0), "held_out": number})


def _evaluation(found: Any) -> dict[str, Any]:
    """The numbers of one line of the log, compared with the sum in it where it has one."""
    _EVALUATION(found)
    numbers = table(text(), number)(found)
    kept = numbers.pop(SUM, None)
    if kept not in (None, _sum_of(numbers)):
        raise Invalid("does not match its sum")
    return numbers


def _sum_of(numbers: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(numbers, sort_keys=True).encode())


def has_config(folder: Path) -> bool:
    """Whether the folder holds a run or a saved generator, begun or whole."""
    return (folder / CONFIG).exists()


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    path = folder / METRICS
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(
            f"{path} is a symbolic link, or no ordinary file; delete it, and run the command again"
        )
    with open(path, "a", encoding="utf-8") as file:
        file.write(_metrics_line(line))


def _metrics_line(numbers: Mapping[str, Any]) -> str:
    return json.dumps({**numbers, SUM: _sum_of(numbers)}) + "\n"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run; `InputWarning` where lines are damaged, which are left out."""
    path = folder / METRICS
    lines = read_bounded(path, LIMIT).decode(errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:  # a damaged log must not keep a run from being resumed
        with suppress(Invalid):
            found.append(_evaluation(parse_json(line, 1 << 20)))
    if len(found) < len(lines):
        damaged = many(len(lines) - len(found), "damaged line")
        warnings.warn(InputWarning(f"{path} has {damaged}, left out"), stacklevel=2)
    return found


def cut_metrics(folder: Path, step: int) -> None:
    """Drop what was logged after the step that a run goes on from."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    atomic_write(folder / METRICS, "".join(_metrics_line(line) for line in kept))
