"""Make a zoo of a folder of ordinary checkpoints, so that people can bring their own networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from canon.errors import InputError
from canon.io import checkpoint
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt
from weightflow.zoo import unfinished
from weightflow.zoo.network_file import Network, read_network
from weightflow.zoo.store import Record, write_manifest, write_shard

WORK = "weightflow zoo import"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, by name; `InputError` where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of checkpoints")
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no checkpoint; they end in {', '.join(SUFFIXES)}")
    return files


def own_architecture(files: Sequence[Path]) -> Architecture:
    """What the files say of themselves, as `weightflow export` writes it, for the most classes of any."""
    found = []
    for path in files:
        text = checkpoint.read(path).metadata.get("architecture")
        if text is None:
            raise InputError(
                f"{path} does not say which architecture it is; name a recipe that does, with --recipe"
            )
        found.append(Architecture.from_dict(json.loads(text)))
    return max(found, key=lambda architecture: architecture.classes)


def import_zoo(
    files: Sequence[Path],
    out: Path,
    architecture: Architecture,
    dataset: str,
    classes: Sequence[str] | None = None,
    lineage: str = "imported",
    shard_size: int = 250,
    progress: Callable[[int], None] = lambda networks: None,
) -> int:
    """Write the networks in `files` as a zoo; ids are the files' names, accuracies are measured.

    A network's classes are `classes`, or what its file says, or all of the data set in its order.
    Every file is read before anything is written; `InputError` names those that do not fit.
    """
    unfinished.require_free(out, WORK)
    data = datasets.load(dataset)
    given = Prompt(tuple(classes)) if classes else None
    everything = Prompt(data.class_names) if len(data.class_names) <= architecture.classes else None

    def read(path: Path) -> Network:
        unnamed = "classes" not in checkpoint.read(path).metadata
        found = read_network(path, architecture, dataset, given or (everything if unnamed else None))
        data.class_index(found.prompt.classes)
        return found

    _check(files, read)
    unfinished.begin(out, WORK)
    for index, start in enumerate(range(0, len(files), shard_size)):
        part = files[start : start + shard_size]
        networks = [read(path) for path in part]
        state = {name: torch.cat([n.state[name] for n in networks]) for name in architecture.shapes}
        accuracy = measured(architecture, state, data, [n.task for n in networks])
        records = [
            Record(
                id=path.stem,
                seed=start + row,
                dataset=dataset,
                split="seen",
                classes=network.prompt.classes,
                lineage=lineage,
                accuracy=accuracy[row],
            )
            for row, (path, network) in enumerate(zip(part, networks, strict=True))
        ]
        write_shard(out, index, state, records)
        progress(len(part))
    header = {"architecture": architecture.to_dict(), "dataset": dataset, "lineage": lineage}
    write_manifest(out, {**header, "recipe": {"imported": str(files[0].parent.resolve())}}, index + 1)
    unfinished.finish(out)
    return len(files)


def _check(files: Sequence[Path], read: Callable[[Path], Network]) -> None:
    odd: dict[Path, str] = {}
    for path in files:
        try:
            read(path)
        except InputError as error:
            odd[path] = str(error)
    if odd:
        names = ", ".join(path.name for path in list(odd)[:10])
        raise InputError(
            f"{len(odd)} of {len(files)} files do not fit: {names}; the first because {next(iter(odd.values()))}. "
            "Take them out, or name the architecture they have"
        )
