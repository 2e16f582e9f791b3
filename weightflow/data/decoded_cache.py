"""Data sets decoded once: arrays in a cache folder, memory-mapped when they are used.

    train.npy  train_labels.npy  [test.npy  test_labels.npy]  names.json

The folder's name is a hash of the source, its options and its files' names, sizes and times, so that
changed files are decoded again. A folder is renamed into place when it is complete. It holds the SHA-256 of
its files, which are checked once in a process; a damaged folder is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from canon.errors import WorkError
from canon.io.files import sha256
from canon.validation import parse_json
from weightflow.data.locations import cache_folder
from weightflow.data.types import (
    ClassificationData,
    Preprocessing,
    SealedSplit,
    Split,
    StoredInputs,
    check_labels,
    check_parts,
    stratified_parts,
)

VERSION = 2
HASHES = "sha256.json"


def identity(source: str, files: Iterable[Path], **options: object) -> str:
    """A key that changes with the source, its options and its files.

    A file counts as another one when its size or a time changes, also that of its last change of any kind, which no
    program sets as it likes: data that were replaced by others of equal size and date are decoded again.
    """
    found = [(str(f), f.stat()) for f in sorted(files)]
    listed = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found]
    text = json.dumps([VERSION, source, listed, options], sort_keys=True, default=str)
    return f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def decoded(key: str, decode: Callable[[Path], None]) -> Path:
    """The cache folder of `key`; where it is missing, `decode` fills a temporary one that is then renamed.

    Two processes may decode at once; the first to finish is kept. `WorkError` where the disk is full.
    """
    folder = cache_folder() / "decoded" / key
    if folder.is_dir() and _is_whole(folder):
        return folder
    if folder.is_dir():  # damaged, or of a version that kept no hashes
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    try:
        decode(temporary)
        hashes = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
        if not folder.is_dir():
            os.rename(temporary, folder)
        _is_whole.cache_clear()
    except OSError as error:
        if not folder.is_dir():
            raise WorkError(
                f"{folder} cannot be written: {error.strerror or error}; free some space, or set "
                "WEIGHTFLOW_CACHE to another folder"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@cache
def _is_whole(folder: Path) -> bool:
    """Whether every file of a cache folder is as it was written; looked at once in a process."""
    try:
        hashes = parse_json((folder / HASHES).read_bytes(), 1 << 20)
        found = {path.name for path in folder.iterdir()} - {HASHES}
        return found == hashes.keys() and all(sha256(folder / name) == hashes[name] for name in found)
    except (OSError, ValueError, AttributeError):
        return False


def write_part(folder: Path, part: str, inputs: np.ndarray, labels: np.ndarray) -> None:
    np.save(folder / f"{part}.npy", np.ascontiguousarray(inputs))
    np.save(folder / f"{part}_labels.npy", np.asarray(labels))


def write_names(folder: Path, class_names: Sequence[str]) -> None:
    (folder / "names.json").write_text(json.dumps(list(class_names)), encoding="utf-8")


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
) -> ClassificationData:
    """Open a decoded data set. Test examples are cut off by the seed only where it brings none.

    Inputs are standardised by channel (images) or as a whole (rows), by training examples alone; words
    stay the numbers that they are.
    """
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    # "c": pages are shared and read on demand; nothing is ever written back
    inputs, labels = np.load(folder / "train.npy", mmap_mode="c"), np.load(folder / "train_labels.npy")
    check_labels(name, labels, names)
    own_test = (folder / "test.npy").exists()
    fractions = [validation_fraction] if own_test else [test_fraction, validation_fraction]
    *cut, validation, train = stratified_parts(labels, fractions, seed)
    test_inputs, test_labels = inputs, labels
    if own_test:
        test_inputs = np.load(folder / "test.npy", mmap_mode="c")
        test_labels = np.load(folder / "test_labels.npy")
        check_labels(name, test_labels, names)
        cut = [np.arange(len(test_labels))]
    test = cut[0]
    parts = {"training": labels[train], "validation": labels[validation], "test": test_labels[test]}
    check_parts(name, names, parts)
    preprocessing = _standardise(inputs, train, divisor) if standardise else Preprocessing(1.0, 0.0, 1.0)

    def split(stored: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> Split:
        picked = StoredInputs(torch.from_numpy(stored), torch.from_numpy(rows), preprocessing)
        return Split(picked, torch.from_numpy(targets[rows].astype(np.int64)))

    return ClassificationData(
        name=name,
        class_names=tuple(names),
        train=split(inputs, labels, train),
        validation=split(inputs, labels, validation),
        test=SealedSplit(split(test_inputs, test_labels, test)),
        preprocessing=preprocessing,
        licence=licence,
        folder=folder,
    )


def _standardise(inputs: np.ndarray, rows: np.ndarray, divisor: float, chunk: int = 2048) -> Preprocessing:
    """Mean and standard deviation of the training rows, summed in float64, a chunk at a time."""
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(rows), chunk):
        part = inputs[rows[start : start + chunk]]
        part = part.reshape(len(part), channels, -1).astype(np.float32) / divisor
        total += part.sum(axis=(0, 2), dtype=np.float64)
        square += np.square(part).sum(axis=(0, 2), dtype=np.float64)
        count += part.shape[0] * part.shape[2]
    mean = total / count
    # a channel that never changes is left as it is
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    std[std < 1e-6] = 1.0
    if inputs.ndim == 4:
        return Preprocessing(divisor, tuple(mean.tolist()), tuple(std.tolist()))
    return Preprocessing(divisor, float(mean[0]), float(std[0]))
