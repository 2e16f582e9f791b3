"""Cache of decoded data sets: arrays in a folder, memory-mapped on use.

    train.npy  train_labels.npy  [validation.npy ... test.npy ...]  names.json  [remarks.json]

`PART_keys.npy` are hashes of the examples' sources: where they are there, splits are cut by them (`partition.py`).

The folder's name is a hash of the source, its options and its files' names, sizes and times, so that
changed files are decoded again. A folder is renamed into place when it is complete. It holds the SHA-256 of
its files, which are checked once in a process; a damaged folder is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from canon.errors import InputError
from canon.io.files import explain, read_bounded, reading, remove_left_behind, sha256, temporary_name
from canon.validation import parse_json
from weightflow.data.locations import cache_folder
from weightflow.data.partition import fingerprint, parts_by_content, stratified_parts
from weightflow.data.types import (
    ClassificationData,
    Preprocessing,
    SealedSplit,
    Split,
    StoredInputs,
    check_labels,
    check_parts,
)

VERSION = 3
HASHES, NAMES, REMARKS = "sha256.json", "names.json", "remarks.json"
CHUNK = 2**23
"""Numbers that are in memory at once while statistics are computed."""
PARTS = ("train", "validation", "test")
LEAST_SPREAD = 1e-7
"""Below this share of its mean the spread of a channel is rounding to float32."""


def identity(source: str, files: Iterable[Path], **options: object) -> str:
    """A key that changes with the source, its options and its files.

    A file counts as another one when its size or a time changes, also that of its last change of any kind, which no
    program sets as it likes: data that were replaced by others of equal size and date are decoded again.
    `InputError` names a file that is a link to nothing.
    """
    try:
        found = [(str(f), f.stat()) for f in sorted(files)]
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read: {error.strerror}; restore it, or delete it"
        ) from None
    listed = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found]
    text = json.dumps([VERSION, source, listed, options], sort_keys=True, default=str)
    return f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def decoded(key: str, decode: Callable[[Path], None]) -> Path:
    """The cache folder of `key`; where it is missing, `decode` fills a temporary one that is then renamed.

    Two processes may decode at once; the first to finish is kept. `WorkError` where the disk is full, `InputError`
    where the cache cannot be written or a damaged folder cannot be removed.
    """
    folder = cache_folder() / "decoded" / key
    if folder.is_dir() and _is_whole(folder):
        return folder
    temporary = temporary_name(folder, unique=f"{uuid.uuid4().hex}.")
    try:
        if folder.is_dir():  # damaged, or of a version that kept no hashes
            shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_left_behind(folder)
        temporary.mkdir()
        decode(temporary)
        hashes = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
        if not folder.is_dir():
            os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():
            raise _explained(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _is_whole.cache_clear()
    if not _is_whole(folder):
        raise InputError(f"{folder} is damaged and cannot be removed; delete it")
    return folder


def _explained(folder: Path, error: OSError) -> Exception:
    """`explain`, with another place for the cache as the way out; a source that cannot be read is said to be it."""
    if error.filename and not str(error.filename).startswith(str(cache_folder())):
        return InputError(f"{error.filename} cannot be read: {error.strerror}")
    found = explain(folder, error)
    return type(found)(f"{found}; set WEIGHTFLOW_CACHE to keep decoded data in another folder")


@cache
def _is_whole(folder: Path) -> bool:
    """Whether every file of a cache folder is as it was written; looked at once in a process."""
    try:
        hashes = parse_json(read_bounded(folder / HASHES, 1 << 20))
        found = {path.name for path in folder.iterdir()} - {HASHES}
        return found == hashes.keys() and all(sha256(folder / name) == hashes[name] for name in found)
    except (OSError, ValueError, AttributeError):
        return False


def write_part(
    folder: Path, part: str, inputs: np.ndarray, labels: np.ndarray, keys: np.ndarray | None = None
) -> None:
    np.save(folder / f"{part}.npy", np.ascontiguousarray(inputs))
    write_labels(folder, part, labels, keys)


def write_labels(folder: Path, part: str, labels: np.ndarray, keys: np.ndarray | None = None) -> None:
    np.save(folder / f"{part}_labels.npy", np.asarray(labels))
    if keys is not None:
        np.save(folder / f"{part}_keys.npy", keys)


def write_names(folder: Path, class_names: Sequence[str], remarks: Sequence[str] = ()) -> None:
    (folder / NAMES).write_text(json.dumps(list(class_names)), encoding="utf-8")
    if remarks:
        (folder / REMARKS).write_text(json.dumps(list(remarks)), encoding="utf-8")


@dataclass(frozen=True)
class _Part:
    """The arrays of one part as they lie in the folder; keys where examples have them."""

    inputs: np.ndarray
    labels: np.ndarray
    keys: np.ndarray | None

    def check(self) -> None:
        """`ValueError` where the arrays are not of the same examples."""
        if (
            self.labels.ndim != 1
            or len({len(own) for own in (self.inputs, self.labels, self.keys) if own is not None}) > 1
        ):
            raise ValueError("its arrays are of different numbers of examples")

    @classmethod
    def read(cls, folder: Path, name: str) -> _Part | None:
        if not (folder / f"{name}.npy").exists():
            return None
        keys = folder / f"{name}_keys.npy"
        # "c": pages are shared and read on demand; nothing is ever written back
        return cls(
            np.load(folder / f"{name}.npy", mmap_mode="c"),
            np.load(folder / f"{name}_labels.npy"),
            np.load(keys) if keys.exists() else None,
        )


def from_folder(
    name: str,
    folder: Path,
    *,
    licence: str,
    divisor: float = 255.0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 0,
    standardise: bool = True,
    per_feature: bool = False,
) -> ClassificationData:
    """Open a decoded data set. Validation and test examples are cut off only where it brings none.

    Inputs are standardised by channel (images), by feature (rows, where `per_feature`) or as a whole, by training
    examples alone; words stay the numbers that they are.
    """
    remarks = folder / REMARKS
    with reading(folder, "delete it; the data set is decoded again"):
        names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        found = {part: own for part in PARTS if (own := _Part.read(folder, part)) is not None}
        for own in found.values():
            own.check()
            check_labels(name, own.labels, names)
        train = found["train"]
    shares = {"test": test_fraction, "validation": validation_fraction}
    cut = [part for part in shares if part not in found]
    fractions = [shares[part] for part in cut]
    if train.keys is None:
        *cuts, kept = stratified_parts(train.labels, fractions, seed)
    else:
        *cuts, kept = parts_by_content(train.labels, train.keys, fractions)
    rows = {"train": kept, **dict(zip(cut, cuts, strict=True))}
    check_parts(
        name,
        names,
        {
            "training" if part == "train" else part: train.labels[rows[part]]
            if part in rows
            else found[part].labels
            for part in PARTS
        },
    )
    preprocessing = Preprocessing(1.0, 0.0, 1.0)
    if standardise:
        preprocessing = _standardise(train.inputs, kept, divisor, per_feature)

    def split(part: str) -> Split:
        source = train if part in rows else found[part]
        own = rows.get(part, np.arange(len(source.labels)))
        picked = StoredInputs(torch.from_numpy(source.inputs), torch.from_numpy(own), preprocessing)
        return Split(picked, torch.from_numpy(source.labels[own].astype(np.int64)))

    return ClassificationData(
        name=name,
        class_names=tuple(names),
        train=split("train"),
        validation=split("validation"),
        test=SealedSplit(split("test")),
        preprocessing=preprocessing,
        licence=licence,
        folder=folder,
        fingerprint=_fingerprint(folder, names, found),
        remarks=tuple(json.loads(remarks.read_text(encoding="utf-8")) if remarks.exists() else ()),
    )


def _fingerprint(folder: Path, names: Sequence[str], found: Mapping[str, _Part]) -> str:
    """Of the examples by their keys; where they have none, of the decoded files by their hashes."""
    keyed = {part: (own.keys, own.labels) for part, own in found.items() if own.keys is not None}
    if len(keyed) == len(found):
        return fingerprint(names, keyed)
    return hashlib.sha256((folder / HASHES).read_bytes()).hexdigest()[:16]


def _standardise(inputs: np.ndarray, rows: np.ndarray, divisor: float, per_feature: bool) -> Preprocessing:
    """Mean and standard deviation of the training rows, in float64, a chunk at a time and the mean first."""
    per_feature = per_feature and inputs.ndim == 2
    channels = inputs.shape[1] if inputs.ndim == 4 or per_feature else 1
    chunk = max(1, CHUNK // math.prod(inputs.shape[1:]))

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), chunk):
            part = inputs[rows[start : start + chunk]]
            yield part.reshape(len(part), channels, -1).astype(np.float64) / divisor

    count = len(rows) * (math.prod(inputs.shape[1:]) // channels)
    mean = sum((part.sum(axis=(0, 2)) for part in parts()), np.zeros(channels)) / count
    spread = (np.square(part - mean[:, None]).sum(axis=(0, 2)) for part in parts())
    std = np.sqrt(sum(spread, np.zeros(channels)) / count)
    # a channel that never changes is left as it is
    std[std <= LEAST_SPREAD * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)] = 1.0
    if inputs.ndim == 4 or per_feature:
        return Preprocessing(divisor, tuple(mean.tolist()), tuple(std.tolist()))
    return Preprocessing(divisor, float(mean[0]), float(std[0]))
