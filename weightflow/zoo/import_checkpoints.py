"""Make a zoo of a folder of ordinary checkpoints, so that people can bring their own networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from canon.errors import InputError
from canon.io import checkpoint, formats
from canon.validation import Invalid, parse_json
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt
from weightflow.zoo import unfinished
from weightflow.zoo.network_file import Network, read_network
from weightflow.zoo.store import Record, write_manifest, write_shard

WORK = "weightflow zoo import"
LIMIT = 1 << 20  # bytes of an architecture; it has a few hundred
SUFFIXES = tuple(suffix for suffix in formats.SUFFIXES if suffix != ".pt2")


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, by name; those of its subfolders, one a run, where it holds none itself.

    Raises `InputError` where there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of checkpoints")
    for pattern in ("*", "*/*"):
        files = sorted(path for path in folder.glob(pattern) if _is_checkpoint(path))
        if files:
            return files
    raise InputError(f"{folder} holds no checkpoint; they end in {', '.join(SUFFIXES)}")


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
        text = checkpoint.read(path).metadata.get("architecture")
        if text is None:
            raise InputError(
                f"{path} does not say which architecture it is; name a recipe that does, with --recipe"
            )
        try:
            found.append(Architecture.from_dict(parse_json(text, LIMIT)))
        except (Invalid, InputError) as error:
            raise InputError(f"{path}: its architecture is damaged ({error}); export it again") from None
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
    """Write the networks in `files` as a zoo; ids are the files' names (see `ids_of`), accuracies are measured.

    A network's classes are `classes`, or what its file says, or all of the data set in its order.
    Every file is read before anything is written; `InputError` names those that do not fit.
    """
    unfinished.require_free(out, WORK)
    data = datasets.load(dataset)
    given = Prompt(tuple(classes)) if classes else None
    everything = Prompt(data.class_names) if len(data.class_names) <= architecture.classes else None
    ids = ids_of(files)

    def read(path: Path) -> Network:
        found = read_network(path, architecture, dataset, given, otherwise=everything)
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
