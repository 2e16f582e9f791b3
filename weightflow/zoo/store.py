"""A zoo on disk: many networks of one architecture, each with its task, seed, lineage and accuracies.

    zoo.json                    format, architecture, data set, recipe, shards with their SHA-256
    shards/00000.safetensors    one tensor per parameter, first axis = networks of the shard
    records.jsonl               one line per network

A shard's records travel in its own metadata too, so that a folder of shards is enough to go on
building and to write the manifest again. Shards are checked against their hash before they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from canon.errors import InputError
from canon.io import checkpoint, safetensors
from canon.io.digests import checked, with_digest
from canon.io.files import atomic_open, atomic_write, read_bounded, require_file, sha256
from canon.types import PathLike, StateDict
from canon.validation import (
    Check,
    Invalid,
    integer,
    items,
    many,
    number,
    one_of,
    optional,
    parse_json,
    record,
    shown,
    table,
    text,
)
from weightflow import config, datasets, folders
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.batched.tasks import Task
from weightflow.data.info import DataInfo, check_facts
from weightflow.data.types import NAME, ClassificationData
from weightflow.folders import local_folder, wrong_kind
from weightflow.networks.architectures import Architecture

FORMAT = "weightflow-zoo-1"
MANIFEST, RECORDS, RECIPE = folders.MANIFEST, "records.jsonl", folders.RECIPE
FRAME, BASE_FILE = folders.FRAME, "base.safetensors"
LIMIT = 1 << 30  # bytes of a manifest or of the records: millions of networks


@dataclass(frozen=True, slots=True)
class Record:
    """One network of a zoo. Accuracies are fractions on training and validation examples.

    `words` are what was said of each class of a generated network, where that is not its name.
    """

    id: str
    seed: int
    dataset: str
    split: str
    classes: tuple[str, ...]
    lineage: str
    parent: str | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    shard: int = 0
    row: int = 0
    words: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        return Task(self.dataset, self.classes, self.split)

    def to_json(self) -> str:
        said = dataclasses.asdict(self)
        if not self.words:
            del said["words"]
        return json.dumps(said, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Record:
        data = _RECORD(parse_json(text, 1 << 20))
        # a zoo has as many records as networks, whose words are few: each is kept once
        once: dict[str, Any] = {name: sys.intern(data[name]) for name in ("dataset", "split", "lineage")}
        once["classes"] = tuple(map(sys.intern, data["classes"]))
        once["words"] = tuple(data.get("words", ()))
        once["accuracy"] = {sys.intern(name): value for name, value in data.get("accuracy", {}).items()}
        return cls(**{**data, **once})


def _file_name(value: Any) -> str:
    """An id, which becomes the name of a file: it does not lead out of a folder, on any system, and hides nothing."""
    found: str = text(r"[^/\\:.][^/\\:]*", 200)(value)
    if not found.isprintable():
        raise Invalid(f"'{shown(found)}' is not a name for a file")
    return found


def _classes(value: Any) -> list[str]:
    """Names of classes; each stands for one logit."""
    found: list[str] = items(NAME, 100_000)(value)
    if len(set(found)) != len(found):
        twice = Counter(found).most_common(1)[0][0]
        raise Invalid(f"the class '{shown(twice)}' occurs twice")
    return found


_RECORD = record(
    {
        "id": _file_name,
        "seed": integer(),
        "dataset": NAME,
        "split": NAME,
        "classes": _classes,
        "lineage": NAME,
    },
    {
        "parent": optional(NAME),
        "accuracy": table(NAME, number),
        "steps": optional(integer(0)),
        "shard": integer(0),
        "row": integer(0),
        "words": items(NAME, 100_000),
    },
)


_HASH = text(r"[0-9a-f]{64}")
_KNOWN: dict[str, Check] = {
    "architecture": table(text(limit=100), lambda value: value),
    "dataset": NAME,
    "records_sha256": _HASH,
    "shards": items(
        record({"file": text(r"shards/\d{5,9}\.safetensors"), "networks": integer(0, 2**40), "sha256": _HASH})
    ),
    "canonical": table(NAME, optional(NAME)),
    "base": record({"id": NAME, "file": one_of("base.safetensors"), "sha256": _HASH}),
    "data": optional(check_facts),
    "lineage": NAME,
    "held_out_classes": items(NAME),
    "unseen_by_backbone": items(NAME),
}


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    for key, check in _KNOWN.items():
        try:
            if key in manifest:
                check(manifest[key])
        except Invalid as error:
            raise InputError(f"{path}: {error.within(key)}; build the zoo again to restore it") from None


class _Places:
    """The rows of a zoo's shards, each of which one record takes."""

    def __init__(self, networks: Sequence[int], classes: int) -> None:
        self._starts, self._classes = list(accumulate(networks, initial=0)), classes
        self._taken = bytearray(self._starts[-1])

    def take(self, place: int, one: Record) -> None:
        """`ValueError` where the record names too many classes, or no row, or one that another has."""
        where = f"row {one.row} of shard {one.shard}"
        if not 1 <= len(one.classes) <= self._classes:
            raise ValueError(
                f"record {place} names {len(one.classes)} classes, the networks have {self._classes}"
            )
        first, end = self._starts[one.shard : one.shard + 2] if one.shard < len(self._starts) - 1 else (0, 0)
        row = first + one.row
        if row >= end:
            raise ValueError(f"record {place} lies in {where}, which is not there")
        if self._taken[row]:
            raise ValueError(f"record {place} lies in {where}, as another does")
        self._taken[row] = 1


def shard_path(folder: Path, index: int) -> Path:
    return folder / "shards" / f"{index:05d}.safetensors"


def write_shard(folder: Path, index: int, state: Mapping[str, Tensor], records: Sequence[Record]) -> None:
    """Write one shard, all of it or nothing, with its records in the metadata."""
    path = shard_path(folder, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    placed = [dataclasses.replace(r, shard=index, row=row) for row, r in enumerate(records)]
    lines = [record.to_json() for record in placed]
    for line, own in zip(lines, placed, strict=True):
        try:
            Record.from_json(line)
        except Invalid as error:
            raise InputError(f"network {shown(own.id)} cannot be kept in a zoo: {error}") from None
    checkpoint.write(path, dict(state), {"format": FORMAT, "records": "\n".join(lines)})


def read_shard_records(path: Path) -> list[Record]:
    try:
        header = safetensors.read_header(path, require_file(path))
        metadata = header["__metadata__"]
        safetensors.verify(path, metadata.get(safetensors.DIGEST))
        return [Record.from_json(line) for line in metadata["records"].splitlines()]
    except (InputError, Invalid, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and build the zoo again") from None


def write_manifest(folder: Path, header: Mapping[str, Any], count: int) -> None:
    """Write records.jsonl and zoo.json for the first `count` shards that lie in the folder."""
    shards, digest = [], hashlib.sha256()
    with atomic_open(folder / RECORDS) as file:
        for index in range(count):
            path = shard_path(folder, index)
            records = read_shard_records(path)
            lines = "".join(f"{record.to_json()}\n" for record in records).encode()
            file.write(lines)
            digest.update(lines)
            shards.append({"file": f"shards/{path.name}", "networks": len(records), "sha256": sha256(path)})
    manifest = {"format": FORMAT, **header, "records_sha256": digest.hexdigest(), "shards": shards}
    atomic_write(folder / MANIFEST, json.dumps(with_digest(manifest), indent=1))


def write_zoo(
    folder: Path,
    header: Mapping[str, Any],
    state: StateDict,
    records: Sequence[Record],
    shard_size: int = 500,
) -> None:
    """Write a whole zoo at once; for populations that are already in memory."""
    remove_manifest(folder)
    starts = range(0, len(records), shard_size)
    for index, start in enumerate(starts):
        part = slice(start, start + shard_size)
        write_shard(folder, index, {k: v[part].contiguous() for k, v in state.items()}, records[part])
    write_manifest(folder, header, len(starts))


class Zoo(Dataset[StateDict]):
    """A zoo opened for reading: a `torch.utils.data.Dataset` whose items are plain state dicts.

    Tensors are read by shard or by row; a shard is checked against its hash once, and again when the file changes.

    Args:
        path: Folder of the zoo; `hf://OWNER/NAME` is one on the hub.

    Raises:
        InputError: The folder is not a zoo, or its manifest is damaged.

    Example:
        >>> import weightflow
        >>> zoo = weightflow.Zoo("zoos/digits")
        >>> zoo
        Zoo('zoos/digits', ... networks, mlp, ... parameters, digits)
        >>> len(zoo) == len(zoo.records)
        True
        >>> list(zoo[0])
        ['1.weight', '1.bias', '3.weight', '3.bias']
    """

    def __init__(self, path: PathLike) -> None:
        self.path = local_folder(path, "dataset")
        self.manifest = read_manifest(self.path)
        self.architecture = Architecture.from_dict(self.manifest["architecture"])
        self.dataset: str = self.manifest["dataset"]
        self._sound: dict[int, tuple[int, int]] = {}
        self._last: tuple[int, tuple[int, int], tuple[Any, Mapping[str, Any]]] | None = None

    def __reduce__(self) -> tuple[Callable[..., Zoo], tuple[Any, ...]]:
        """Workers read the folder themselves, each once."""
        return _reopened, (self.path.absolute(), self.identity)

    def __repr__(self) -> str:
        return (
            f"Zoo({str(self.path)!r}, {many(len(self), 'network')}, {self.architecture.name}, "
            f"{self.architecture.parameters} parameters, {self.dataset})"
        )

    @property
    def data(self) -> ClassificationData:
        """The data set that its tasks are cut from, read once a process."""
        return datasets.load(self.dataset)

    @cached_property
    def records(self) -> list[Record]:
        return list(self._read_records())

    def _read_records(self) -> Iterator[Record]:
        """The records one after another, each checked."""
        path = self.path / RECORDS
        if not path.exists():
            raise InputError(f"{path} is missing; run the command that built the zoo again")
        content = read_bounded(path, LIMIT)
        if hashlib.sha256(content).hexdigest() != self.manifest["records_sha256"]:
            raise InputError(f"{path} does not match its hash in zoo.json; build the zoo again to restore it")
        held = [shard["networks"] for shard in self.manifest["shards"]]
        try:
            if (lines := content.count(b"\n")) != sum(held):
                raise ValueError(f"{lines} records do not lie in {sum(held)} rows, each in its own")
            places = _Places(held, self.architecture.classes)
            for place, line in enumerate(BytesIO(content)):
                found = Record.from_json(line.removesuffix(b"\n").decode())
                places.take(place, found)
                yield found
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} holds a record that this version cannot read: {error}") from None

    @property
    def header(self) -> dict[str, Any]:
        """What the manifest says of the networks, for `write_manifest` of others made of them."""
        of_files = ("format", "shards", "records_sha256", "sha256")
        return {key: value for key, value in self.manifest.items() if key not in of_files}

    @property
    def identity(self) -> str:
        """A hash of all that the zoo holds: manifest, records and shards by their hashes."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    @property
    def class_words(self) -> dict[str, tuple[str, ...]]:
        """What names of classes mean, where its recipe says so."""
        return dict(DataInfo.from_dict(self.manifest["data"]).words) if self.manifest.get("data") else {}

    @property
    def training_recipe(self) -> TrainingRecipe | None:
        """How its networks were trained; None where that is not known, as of imported ones."""
        tables = self.manifest.get("recipe", {}).get("training")
        return None if tables is None else config.build(TrainingRecipe, tables, "training.")

    def __len__(self) -> int:
        return sum(shard["networks"] for shard in self.manifest["shards"])

    def rows(self, split: str | None = None) -> list[int]:
        """Indices of the networks of one split, or of all."""
        return [i for i, record in enumerate(self.records) if split is None or record.split == split]

    @cached_property
    def shard_rows(self) -> list[list[int]]:
        """Indices of the networks of each shard."""
        rows: list[list[int]] = [[] for _ in self.manifest["shards"]]
        for row, one in enumerate(self.records):
            rows[one.shard].append(row)
        return rows

    def load(self, rows: Iterable[int] | None = None) -> StateDict:
        """Stacked tensors (networks, *shape) of the given rows, in that order; all rows by default."""
        wanted = list(range(len(self))) if rows is None else list(rows)
        result: StateDict = {}
        for positions, state in self.by_shard(wanted):
            for name, tensor in state.items():
                if name not in result:
                    result[name] = tensor.new_empty(len(wanted), *tensor.shape[1:])
                result[name][positions] = tensor
        return result

    def by_shard(self, rows: Sequence[int]) -> Iterator[tuple[Tensor, StateDict]]:
        """The given rows, one shard in memory at a time: positions in `rows`, and the networks there."""
        of_shard: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            of_shard.setdefault(self.records[row].shard, []).append(position)
        for shard, positions in of_shard.items():
            inside = [self.records[rows[p]].row for p in positions]
            yield torch.tensor(positions), self._read(shard, inside)

    def __getitem__(self, row: int) -> StateDict:
        return self.network(range(len(self))[row])

    def __iter__(self) -> Iterator[StateDict]:
        return (self.network(row) for row in range(len(self)))

    def stacked(self, rows: Iterable[int] | None = None) -> StackedNetworks:
        """The given rows (all by default) as one object with their tasks."""
        wanted = list(range(len(self))) if rows is None else list(rows)
        return StackedNetworks(
            self.load(wanted), [self.records[row].task for row in wanted], self.architecture
        )

    def network(self, row: int) -> StateDict:
        """One network as a plain `state_dict`, trimmed to its own classes. Only its own bytes are read."""
        state = {name: tensor[0] for name, tensor in self.load([row]).items()}
        return self.architecture.trim(state, len(self.records[row].classes))

    def verify(self) -> list[str]:
        """One line for each missing or damaged file; empty if there is none."""
        shards = [self._problem(index) for index in range(len(self.manifest["shards"]))]
        return [problem for problem in (*shards, *self._other_problems()) if problem is not None]

    def require_sound(self, rows: Iterable[int] | None = None) -> None:
        """`InputError` where a shard of the given rows (all by default) is missing or damaged.

        For work that writes as it reads: nothing is begun then.
        """
        for index in sorted(
            {self.records[row].shard for row in (range(len(self)) if rows is None else rows)}
        ):
            self._opened(index)

    def require_own_frame(self, frame: checkpoint.Checkpoint) -> None:
        """`InputError` where a canonical zoo's frame says that it was made with another one."""
        own, source = self.manifest.get("canonical", {}).get("source"), frame.metadata.get("source")
        if own and source and own != source:
            raise InputError(
                f"{self.path / FRAME} is the frame of another zoo ({source[:12]}) than zoo.json ({own[:12]}) says; restore "
                "it, or run weightflow canonicalize again"
            )

    def _other_problems(self) -> Iterator[str]:
        """What is wrong with the records, the frame, the base and the note of the recipe."""
        files = {
            FRAME: "canonical" in self.manifest,
            BASE_FILE: "base" in self.manifest,
        }
        try:
            deque(self._read_records(), maxlen=0)
            for name, wanted in files.items():
                path = self.path / name
                if wanted and not path.exists():
                    yield f"{path} is missing; run the command that made the zoo again"
            for path in sorted(self.path.glob("*.safetensors")):
                found = checkpoint.read(path)
                if path.name == FRAME:
                    self.require_own_frame(found)
        except InputError as error:
            yield str(error)
        recipe = self.path / RECIPE
        if recipe.exists() and "recipe" in self.manifest:
            try:
                same = parse_json(read_bounded(recipe, LIMIT)) == self.manifest["recipe"]
            except (InputError, Invalid):
                same = False
            if not same:
                yield f"{recipe} is not the recipe in zoo.json; build the zoo again in a new folder"
        base = self.path / BASE_FILE
        if base.exists() and "base" in self.manifest and sha256(base) != self.manifest["base"].get("sha256"):
            yield f"{base} is not the network whose SHA-256 is in zoo.json; build the zoo again in a new folder"

    def _read(self, index: int, rows: Sequence[int]) -> StateDict:
        """Some networks of a shard, in the order asked for. Few rows are read alone, many with the whole shard."""
        (file, found), networks = self._opened(index), self.manifest["shards"][index]["networks"]
        state: StateDict = {}
        together = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        for name in self.architecture.shapes:
            if together:
                state[name] = found[name][rows[0] : rows[0] + len(rows)]
            elif 4 * len(rows) < networks:
                state[name] = torch.cat([found[name][row : row + 1] for row in rows])
            else:
                state[name] = file.get_tensor(name)[list(rows)]
        return state

    def _opened(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        """A shard's file and its tensors to be read by slice. The last one stays open for networks one by one."""
        path = self._checked(index)
        if self._last is None or self._last[:2] != (index, self._sound[index]):
            self._last = None
            networks, counters = self.manifest["shards"][index]["networks"], self.architecture.counters
            file: Any = safe_open(path, "pt")
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            kinds = {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in found.items()}
            if kinds != {
                name: ("I64" if name in counters else "F32", (networks, *shape))
                for name, shape in self.architecture.shapes.items()
            }:
                raise InputError(
                    f"{path} does not hold the networks that {self.path / 'zoo.json'} names; "
                    "build the zoo again to restore it"
                )
            self._last = index, self._sound[index], (file, found)
        return self._last[2]

    def _checked(self, index: int) -> Path:
        """A shard's file, which is the one that the manifest names; `InputError` where it is not."""
        path = shard_path(self.path, index)
        if not path.exists() or self._sound.get(index) != _version(path):
            if (problem := self._problem(index)) is not None:
                raise InputError(problem)
            safetensors.read_header(path, require_file(path))
            self._sound[index] = _version(path)
        return path

    def _problem(self, index: int) -> str | None:
        entry, path = self.manifest["shards"][index], shard_path(self.path, index)
        again = "run the command that built the zoo again to rebuild just this shard"
        if not path.exists():
            return f"shard {path} is missing; {again}"
        try:
            safetensors.read_header(path, require_file(path))  # a file of another size is not read to its end
            found = sha256(path)
        except InputError as error:
            return f"shard {path} is damaged: {error}; {again}"
        if found != entry["sha256"]:
            return f"shard {path} is damaged: its SHA-256 is not the one in zoo.json; {again}"
        return None


@lru_cache(maxsize=1)
def _reopened(folder: Path, identity: str) -> Zoo:
    found = Zoo(folder)
    if found.identity != identity:
        raise InputError(f"{folder} has changed since the work began; run the same command again")
    return found


def problems_of(folder: Path) -> list[str]:
    """What `Zoo.verify` finds; a manifest that cannot be read is a damaged file like any other.

    Raises `InputError` where the folder has no manifest.
    """
    if not os.path.lexists(folder / MANIFEST):
        return Zoo(folder).verify()
    try:
        return Zoo(folder).verify()
    except InputError as error:
        return [str(error)]


def has_manifest(folder: Path) -> bool:
    """Whether the folder holds a zoo that was written to its end."""
    return (folder / MANIFEST).exists()


def manifest_version(folder: Path) -> tuple[int, int] | None:
    """What changes when the manifest is written again; None where there is none."""
    return _version(folder / MANIFEST) if has_manifest(folder) else None


def remove_manifest(folder: Path) -> None:
    """Remove the manifest: the folder is not a zoo until it is written again."""
    (folder / MANIFEST).unlink(missing_ok=True)


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def read_manifest(folder: Path) -> dict[str, Any]:
    """zoo.json, checked; `InputError` says what the folder is instead."""
    path = folder / MANIFEST
    if not folder.is_dir() or not os.path.lexists(path):
        raise wrong_kind(folder, "a zoo")
    try:
        manifest = parse_json(read_bounded(path, LIMIT))
    except Invalid as error:
        raise InputError(f"{path} is damaged ({error}); build the zoo again to restore it") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise InputError(f"{path} has format '{shown(found)}'; this version reads '{FORMAT}'")
    manifest = checked(path, manifest)
    _check_manifest(path, manifest)
    missing = {"architecture", "dataset", "records_sha256", "shards"} - manifest.keys()
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; build the zoo again to restore it")
    return manifest
