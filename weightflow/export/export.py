"""Hand networks over, one file a network: weights alone, or a program that runs without weightflow.

Running statistics are never generated: networks of a generator get theirs from training images of their
own classes before they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import atomic_write
from canon.types import StateDict
from weightflow import datasets
from weightflow.batched import batch_norm
from weightflow.datasets import Facts
from weightflow.export.programs import onnx_bytes, pt2_bytes
from weightflow.generator.decode import to_module
from weightflow.networks.classifier import Classifier
from weightflow.registry import pick
from weightflow.text import Prompt
from weightflow.zoo.network_file import metadata_of
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Given:
    """A network to hand over: its plain state, the module that calls it, inputs to try it on, what it says."""

    state: Mapping[str, Tensor]
    model: Classifier
    example: Tensor
    metadata: Mapping[str, str]


Write = Callable[[Path, Given, bool], None]


def _safetensors(path: Path, given: Given, prepared: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, given.state, given.metadata)


def _program(make: Callable[[torch.nn.Module, Tensor, Mapping[str, str]], bytes]) -> Write:
    def write(path: Path, given: Given, prepared: bool) -> None:
        module = given.model.network if prepared else given.model
        takes = {"inputs": "prepared" if prepared else "raw"}
        content = make(module, given.example, {**given.metadata, **takes})
        path.parent.mkdir(parents=True, exist_ok=True)  # not before something can be written into it
        atomic_write(path, content)

    return write


FORMATS: dict[str, Write] = {
    "safetensors": _safetensors,
    "pt2": _program(pt2_bytes),
    "onnx": _program(onnx_bytes),
}


def export_zoo(
    zoo: Zoo,
    folder: Path,
    count: int | None = None,
    format: str = "safetensors",
    prepared: bool = False,
    progress: Callable[[int], None] = lambda networks: None,
) -> list[Path]:
    """Write the first `count` networks (all by default) as `ID.FORMAT`, trimmed to their classes.

    Programs take raw inputs and prepare them, or `prepared` ones as they are; the metadata says which, and
    how inputs are prepared. Their outputs were compared with the network's before they are written.
    Raises `InputError` where the format cannot express the network; then nothing is written.
    """
    if count is not None and count < 1:
        raise InputError(f"--count is {count}; export 1 network or more")
    if len(zoo) == 0:
        raise InputError(f"{zoo.path} holds no network")
    write, facts = pick(FORMATS, format, "format"), facts_of(zoo)
    written = []
    wanted = [(row, record, Prompt(record.classes)) for row, record in list(enumerate(zoo.records))[:count]]
    for row, record, prompt in wanted:
        state = {name: tensor[0] for name, tensor in with_statistics(zoo, row).items()}
        network = to_module(zoo.architecture, state, prompt)
        model = Classifier(network, facts.preprocessing, record.classes)
        own = {
            **metadata_of(zoo.architecture, record.classes),
            "dataset": zoo.dataset,
            "preprocessing": json.dumps(model.description),
            "origin": json.dumps({"id": record.id, "seed": record.seed, "lineage": record.lineage}),
        }
        path = folder / f"{record.id}.{format}"
        plain = zoo.architecture.trim(state, len(record.classes))
        write(path, Given(plain, model, zoo.architecture.example(2), own), prepared)
        written.append(path)
        progress(1)
    return written


def facts_of(zoo: Zoo) -> Facts:
    """What the zoo itself says of its data, or the data set."""
    table = zoo.manifest.get("data")
    return Facts.from_dict(table) if table else Facts.of(datasets.load(zoo.dataset))


def with_statistics(zoo: Zoo, row: int) -> StateDict:
    """One network, stacked; a generated one with running statistics of its classes' training images."""
    state, record = zoo.load([row]), zoo.records[row]
    if record.lineage != "generated":
        return state
    return batch_norm.of_classes(zoo.architecture, state, zoo.dataset, [record.classes])
