"""CIFAR-10 and CIFAR-100 in their published Python batches, which torchvision keeps as they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from canon.errors import InputError
from canon.io.files import require_file
from canon.validation import shown
from weightflow.data import decoded_cache, locations
from weightflow.data.types import ClassificationData

LICENCE = "not stated by its publisher (Krizhevsky 2009); for research"


def cifar10() -> ClassificationData:
    """60,000 colour images, 3x32x32, of ten classes."""
    train = [f"data_batch_{n}" for n in range(1, 6)]
    parts = {"train": train, "test": ["test_batch"]}
    return _load("cifar10", "cifar-10-batches-py", parts, "labels", ("batches.meta", "label_names"))


def cifar100() -> ClassificationData:
    """60,000 colour images, 3x32x32, of a hundred classes."""
    parts = {"train": ["train"], "test": ["test"]}
    return _load("cifar100", "cifar-100-python", parts, "fine_labels", ("meta", "fine_label_names"))


def _load(
    name: str, folder_name: str, parts: dict[str, list[str]], labels: str, meta: tuple[str, str]
) -> ClassificationData:
    folder = locations.find(name, [folder_name], meta[0], locations.how_to_get(name))
    files = {part: [folder / f for f in listed] for part, listed in parts.items()}
    for path in [f for listed in files.values() for f in listed]:
        if not path.exists():
            raise InputError(f"{path} is missing; the folder is incomplete: download it again")

    def decode(target: Path) -> None:
        for part, listed in files.items():
            batches = [read_batch(path) for path in listed]
            try:
                pixels = np.concatenate([np.asarray(b["data"], dtype=np.uint8) for b in batches])
                targets = np.concatenate([np.asarray(b[labels], dtype=np.int64) for b in batches])
                images = pixels.reshape(len(targets), 3, 32, 32)
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise InputError(
                    f"{listed[0]} is not a batch of CIFAR ({shown(str(error), 200)}); download it again"
                ) from None
            decoded_cache.write_part(target, part, images, targets)
        names = read_batch(folder / meta[0]).get(meta[1])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{folder / meta[0]} has no list of names '{meta[1]}'; download it again")
        decoded_cache.write_names(target, [name.replace("_", " ") for name in names])

    key = decoded_cache.identity(name, [f for listed in files.values() for f in listed] + [folder / meta[0]])
    return decoded_cache.from_folder(name, decoded_cache.decoded(key, decode), licence=LICENCE)


class _ArraysOnly(pickle.Unpickler):
    """The published batches are pickles of arrays, lists and text; nothing else is built from them."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_batch(path: Path) -> dict[str, Any]:
    """One published pickle, read without running code; `InputError` names a file that is damaged."""
    size = require_file(path)
    try:
        with open(path, "rb") as file:
            found = dict(_ArraysOnly(file, encoding="latin1").load())
    except Exception as error:
        raise InputError(f"{path} cannot be read: {shown(str(error), 200)}; download it again") from None
    for name, value in found.items():
        claimed = value.nbytes if isinstance(value, np.ndarray) else 0
        if claimed > size:
            raise InputError(f"{path}: {shown(str(name))} claims {claimed} bytes, the file holds {size}")
    return {str(name): value for name, value in found.items()}
