"""Make a zoo of a folder of ordinary checkpoints, so that people can bring their own networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from canon.errors import InputError, InputWarning
from canon.io import checkpoint, formats
from canon.io.folders import require_apart, require_space, writing_into
from canon.validation import Invalid, many, parse_json
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.data.info import DataInfo
from weightflow.folders import EXPORTED, refuse_own, wrong_kind
from weightflow.networks.architectures import Architecture
from weightflow.networks.architectures.requirements import require_supported
from weightflow.text import Prompt
from weightflow.text.class_words import class_words
from weightflow.zoo import unfinished
from weightflow.zoo.network_file import Network, classes_beside, read_network
from weightflow.zoo.store import Record, write_manifest, write_shard

WORK = "weightflow zoo import"
LIMIT = 1 << 20  # bytes of an architecture; it has a few hundred
SUFFIXES = tuple(suffix for suffix in formats.SUFFIXES if suffix != ".pt2")


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, by name; those of its subfolders, one a run, where it holds none itself.

    Raises `InputError` where there are none; `InputWarning` says where those of subfolders are left out.
    """
    if not folder.is_dir():
        raise wrong_kind(folder, "a folder of checkpoints")
    refuse_own(folder, "a folder of checkpoints", but=EXPORTED)
    own, below = (
        sorted(path for path in folder.glob(pattern) if _is_checkpoint(path)) for pattern in ("*", "*/*")
    )
    if own and below:
        warnings.warn(
            f"{many(len(below), 'checkpoint')} in folders of {folder} left out (the first is {below[0]}), since it holds "
            f"{many(len(own), 'file')} itself; move them beside these, or import them apart",
            InputWarning,
            stacklevel=2,
        )
    if own or below:
        return own or below
    raise InputError(f"{wrong_kind(folder, 'a folder of checkpoints')}; those end in {', '.join(SUFFIXES)}")


def _is_checkpoint(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and not path.is_dir()


def ids_of(files: Sequence[Path]) -> list[str]:
    """A name for each file that no other has: its stem, else with its suffix or its folder's name.

    Files of one name in folders of their own (`run1/best.pt`, `run2/best.pt`) have the folder's name before theirs.
    """
    for named in (_stem, lambda path: path.name, lambda path: f"{path.parent.name}-{_stem(path)}"):
        names = [_safe(named(path)) for path in files]
        if len({name.casefold() for name in names}) == len(names):
            return names
    return [_safe(f"{place:05d}-{path.parent.name}-{path.name}") for place, path in enumerate(files)]


def _safe(name: str) -> str:
    """The name as an id may be: what leads elsewhere or cannot be seen becomes `_`, and it is not long."""
    seen = "".join("_" if sign in "/\\:" or not sign.isprintable() else sign for sign in name)
    visible = "_" + seen if seen.startswith(".") else seen
    return visible.encode()[:150].decode(errors="ignore")


def _stem(path: Path) -> str:
    suffix = max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len)
    return path.name[: -len(suffix)].removesuffix(".pth") or path.name


def own_architecture(files: Sequence[Path]) -> Architecture:
    """What the files say of themselves, as `weightflow export` writes it, for the most classes of any."""
    found = []
    for path in files:
        text = checkpoint.read_metadata(path).get("architecture")
        if text is None:
            raise InputError(
                f"{path} does not say which architecture it is; name a recipe that does, with --recipe"
            )
        try:
            found.append(Architecture.from_dict(parse_json(text, LIMIT)))
        except (Invalid, InputError) as error:
            raise InputError(f"{path}: its architecture is damaged ({error}); export it again") from None
    return max(found, key=lambda architecture: architecture.classes)


def prepared_name(dataset: str, preprocessing: str | None) -> str:
    """The data set's name with the options that say how inputs are prepared."""
    if not preprocessing:
        return dataset
    last = dataset.rpartition(datasets.THROUGH)[2]
    return f"{dataset}{'&' if '?' in last else '?'}{preprocessing}"


def architecture_of(
    model: str,
    arguments: Mapping[str, Any],
    files: Sequence[Path],
    dataset: str,
    classes: Sequence[str] | Mapping[Path, Sequence[str]] | None,
) -> Architecture:
    """The architecture that a builder makes, for the most classes of any file; `InputError` where it makes none."""
    data = datasets.load(dataset)
    if isinstance(classes, Mapping):
        counts = [len(own) for own in classes.values()]
    elif classes:
        counts = [len(classes)]
    else:
        beside = [classes_beside(checkpoint.read(path)) for path in files]
        counts = [len(own.classes) if own else len(data.class_names) for own in beside]
    found = Architecture(model, dict(arguments), data.input_shape, max(counts))
    found.build()
    return found


def import_zoo(
    files: Sequence[Path],
    out: Path,
    architecture: Architecture,
    dataset: str,
    classes: Sequence[str] | Mapping[Path, Sequence[str]] | None = None,
    lineage: str = "imported",
    descriptions: Mapping[str, Any] | None = None,
    shard_size: int = 250,
    progress: Callable[[int], None] = lambda networks: None,
) -> int:
    """Write the networks in `files` as a zoo; ids are the files' names (see `ids_of`), accuracies are measured.

    A network's classes are `classes` (of all, or of each file), or what its file says, or all of the data set in its order.
    `descriptions` say in words what names of classes mean. Every file is read before anything is written; `InputError` names those that do not fit.
    """
    unfinished.require_free(out, WORK)
    require_apart(out, *datasets.folders_of(dataset))
    require_space(out, len(files), 4 * architecture.parameters)
    with writing_into(out):
        return _import(
            files, out, architecture, dataset, classes, lineage, descriptions, shard_size, progress
        )


def _import(
    files: Sequence[Path],
    out: Path,
    architecture: Architecture,
    dataset: str,
    classes: Sequence[str] | Mapping[Path, Sequence[str]] | None,
    lineage: str,
    descriptions: Mapping[str, Any] | None,
    shard_size: int,
    progress: Callable[[int], None],
) -> int:
    dataset = datasets.absolute(dataset)
    data = datasets.load(dataset)
    architecture.require_inputs(data.input_shape, f"data set '{data.name}'")
    require_supported(architecture, data.train.inputs[torch.arange(min(2, len(data.train.inputs)))])
    words = class_words(descriptions or {}, data.class_names, dataset)
    of_file = dict(classes) if isinstance(classes, Mapping) else dict.fromkeys(files, classes)
    everything = Prompt(data.class_names) if len(data.class_names) <= architecture.classes else None
    ids = ids_of(files)

    def read(path: Path) -> Network:
        own = of_file.get(path)
        given = Prompt(tuple(own)) if own else None
        found = read_network(path, architecture, dataset, given, otherwise=everything)
        data.class_index(found.prompt.classes)
        return found

    checked = _check(files, read, keep=len(files) <= shard_size)
    tasks: list[tuple[str, ...]] = []
    unfinished.begin(out, WORK)
    for index, start in enumerate(range(0, len(files), shard_size)):
        part = files[start : start + shard_size]
        networks = checked or [read(path) for path in part]
        state = {name: torch.cat([n.state[name] for n in networks]) for name in architecture.shapes}
        accuracy = measured(architecture, state, data, [n.task for n in networks])
        records = [
            Record(
                id=ids[start + row],
                seed=start + row,
                dataset=dataset,
                split="seen",
                classes=network.prompt.classes,
                lineage=lineage,
                accuracy=accuracy[row],
            )
            for row, network in enumerate(networks)
        ]
        tasks += [record.classes for record in records]
        write_shard(out, index, state, records)
        progress(len(part))
    header = {
        "architecture": architecture.to_dict(),
        "dataset": dataset,
        "data": replace(DataInfo.of_tasks(data, tasks), words=words).to_dict(),
        "lineage": lineage,
    }
    write_manifest(out, {**header, "recipe": {"imported": str(files[0].parent.resolve())}}, index + 1)
    unfinished.finish(out)
    return len(files)


def _check(files: Sequence[Path], read: Callable[[Path], Network], keep: bool) -> list[Network]:
    """Read every file; the networks where they are to be kept, nothing otherwise. `InputError` names those that do not fit."""
    odd: dict[Path, str] = {}
    kept: list[Network] = []
    for path in files:
        try:
            network = read(path)
            if keep:
                kept.append(network)
        except InputError as error:
            odd[path] = str(error)
    if odd:
        above = files[0].parent.parent if len({path.parent for path in files}) > 1 else files[0].parent
        names = ", ".join(path.relative_to(above).as_posix() for path in list(odd)[:10])
        raise InputError(
            f"{len(odd)} of {len(files)} files do not fit: {names}; the first because {next(iter(odd.values()))}. "
            "Take them out, name the architecture they have, or set its arguments: --set architecture.arguments.NAME=VALUE"
        )
    return kept
