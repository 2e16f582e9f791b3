"""Export networks, one file each: weights, or a program that runs without weightflow.

Running statistics are never generated: networks of a generator get theirs from training images of their
own classes before they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import atomic_write, read_bounded
from canon.io.folders import require_apart, require_place, require_space, writing_into
from canon.types import StateDict
from canon.validation import Invalid, parse_json
from weightflow import datasets, folders
from weightflow.backbones import Features, backbone_of
from weightflow.batched import batch_norm
from weightflow.data.info import without_folders
from weightflow.datasets import DataInfo, StoredInputs
from weightflow.export.programs import onnx_bytes, pt2_bytes
from weightflow.generator.decode import to_module
from weightflow.networks.classifier import Classifier
from weightflow.registry import pick
from weightflow.text import Prompt
from weightflow.zoo.network_file import metadata_of
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class ExportedNetwork:
    """A network to export: its state, module, raw and prepared example inputs, and metadata."""

    state: Mapping[str, Tensor]
    model: Classifier
    example: Tensor
    prepared: Tensor
    metadata: Mapping[str, str]


Write = Callable[[Path], None]
"""Writes a file that is made already."""
Make = Callable[[ExportedNetwork, bool], Write]


def _safetensors(given: ExportedNetwork, prepared: bool) -> Write:
    return lambda path: checkpoint.write(path, given.state, given.metadata)


def _program(make: Callable[[torch.nn.Module, Tensor, Mapping[str, str]], bytes]) -> Make:
    def made(given: ExportedNetwork, prepared: bool) -> Write:
        module, example = (given.model.network, given.prepared) if prepared else (given.model, given.example)
        takes = _inputs_of(given, prepared)
        content = make(
            module, example, {**given.metadata, **takes, "input_shape": json.dumps(takes["input_shape"])}
        )
        return lambda path: atomic_write(path, content)

    return made


def _inputs_of(given: ExportedNetwork, prepared: bool) -> dict[str, Any]:
    """What a program takes: raw or prepared inputs, the shape of one and the kind of number that it was traced with."""
    example = given.prepared if prepared else given.example
    return {
        "inputs": "prepared" if prepared else "raw",
        "input_shape": list(example.shape[1:]),
        "input_dtype": str(example.dtype).removeprefix("torch."),
    }


SAFETENSORS = "safetensors"
SOURCE = folders.SOURCE
"""Says which population the files of a folder are of, and what inputs its programs take."""
FORMATS: dict[str, Make] = {
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

    Programs take raw inputs (bytes where the data are bytes; images where the networks are heads, whose programs hold
    the backbone) and prepare them, or `prepared` ones as they are; the metadata and `networks.json` say which, of
    what shape, and how inputs are prepared. Their outputs were compared with the network's before they are written.
    Raises `InputError` where the format cannot express the network, or the folder holds other networks; then nothing
    is written.
    """
    if count is not None and count < 1:
        raise InputError(f"--count is {count}; export 1 network or more")
    if len(zoo) == 0:
        raise InputError(f"{zoo.path} holds no network")
    require_place(folder)
    require_apart(folder, zoo.path)
    many = len(zoo) if count is None else min(count, len(zoo))
    require_space(folder, many, 4 * zoo.architecture.parameters)
    zoo.require_sound(range(many))
    with writing_into(folder):
        return _export(zoo, folder, count, format, prepared, progress)


def _export(
    zoo: Zoo, folder: Path, count: int | None, format: str, prepared: bool, progress: Callable[[int], None]
) -> list[Path]:
    make, facts = pick(FORMATS, format, "format"), facts_of(zoo)
    source = _source(folder, zoo)
    features, example = None, None
    if format != SAFETENSORS and not prepared:
        features = _features(facts)
        example = _raw_example(zoo, facts, features)
    written: list[Path] = []
    wanted = [(row, record, Prompt(record.classes)) for row, record in list(enumerate(zoo.records))[:count]]
    for row, record, prompt in wanted:
        state = {name: tensor[0] for name, tensor in with_statistics(zoo, row).items()}
        network = to_module(zoo.architecture, state, prompt)
        model = Classifier(network, facts.preprocessing, record.classes, features)
        own = {
            **metadata_of(zoo.architecture, record.classes),
            "dataset": without_folders(zoo.dataset),
            "preprocessing": json.dumps(model.description),
            "origin": json.dumps({"id": record.id, "seed": record.seed, "lineage": record.lineage}),
        }
        path, ready = folder / f"{record.id}.{format}", zoo.architecture.example(2)
        plain = zoo.architecture.trim(state, len(record.classes))
        given = ExportedNetwork(plain, model, ready if example is None else example, ready, own)
        write = make(given, prepared)
        if not written:  # not before something can be written, and before it is: a killed export goes on
            folder.mkdir(parents=True, exist_ok=True)
            if format != SAFETENSORS:
                source[format] = _inputs_of(given, prepared)
            atomic_write(folder / SOURCE, json.dumps(source))
        write(path)
        written.append(path)
        progress(1)
    return written


def _source(folder: Path, zoo: Zoo) -> dict[str, Any]:
    """What `SOURCE` says; `InputError` where the folder holds networks that are not this zoo's: ids of several are alike."""
    source, new = folder / SOURCE, {"zoo": zoo.identity}
    try:
        found = parse_json(read_bounded(source, 1 << 16)) if source.exists() else None
    except Invalid:
        found = None
    if isinstance(found, dict) and found.get("zoo") == zoo.identity:
        return found
    held = sorted(p.name for f in FORMATS for p in folder.glob(f"*.{f}")) if folder.is_dir() else []
    if held:
        raise InputError(
            f"{folder} holds other networks (such as {held[0]}); choose another folder, or delete it"
        )
    return new


def _features(facts: DataInfo) -> Features | None:
    """The backbone that comes before heads, as a part of their programs."""
    if facts.backbone is None:
        return None
    if not Path(facts.backbone).is_file():
        raise InputError(
            f"the networks are heads on the features of {facts.backbone}, which is not there; restore it, or write "
            "programs that take features: --prepared"
        )
    return Features(backbone_of(facts))


def _raw_example(zoo: Zoo, facts: DataInfo, features: Features | None) -> Tensor:
    """Two raw inputs of the data set: of the shape and kind (bytes or floats) that it has them."""
    shape, size = tuple(zoo.architecture.input_shape), None if features is None else features.size
    preprocessing = facts.preprocessing if features is None else features.prepare.preprocessing
    is_bytes = preprocessing.divisor == 255
    try:
        data = datasets.load(facts.images)
    except InputError as error:
        if features is not None and size is None:
            raise InputError(
                f"{error}; its images are needed, or write programs that take features: --prepared"
            ) from None
        if features is not None and size is not None:
            shape = (preprocessing.channels, size, size)
    else:
        shape = shape if features is None else data.input_shape
        if isinstance(data.train.inputs, StoredInputs):
            is_bytes = data.train.inputs.stored.dtype == torch.uint8
    if features is None:
        example = zoo.architecture.example(2)
        if not is_bytes or not example.is_floating_point():
            return example
    made = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return (256 * made).floor().to(torch.uint8) if is_bytes else made


def facts_of(zoo: Zoo) -> DataInfo:
    """What the zoo itself says of its data, or the data set."""
    table = zoo.manifest.get("data")
    return DataInfo.from_dict(table) if table else DataInfo.of(zoo.data)


def with_statistics(zoo: Zoo, row: int) -> StateDict:
    """One network, stacked; a generated one with running statistics of its classes' training images."""
    state, record = zoo.load([row]), zoo.records[row]
    if record.lineage != folders.GENERATED:
        return state
    return batch_norm.of_classes(zoo.architecture, state, zoo.dataset, [record.classes])
