"""Any data as arrays: `inputs` and `labels` (or with `test_`), and `class_names`, in one .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from canon.errors import InputError
from canon.io.arrays import read_npz
from weightflow.data import decoded_cache
from weightflow.data.types import ClassificationData


def npz(path: str) -> ClassificationData:
    """Arrays `inputs` and `labels`, optionally `test_inputs`, `test_labels`, `class_names`.

    Images are (examples, height, width[, channels]) or (examples, channels, height, width), bytes 0 to
    255 or floats; rows are (examples, features). Without class names, labels are called by their number.
    """
    source, name = Path(path).expanduser(), f"npz:{path}"
    if not source.is_file():
        raise InputError(f"data set '{name}': {source} does not exist")
    key = decoded_cache.identity("npz", [source])
    folder = decoded_cache.decoded(key, lambda target: _decode(name, source, target))
    is_bytes = np.load(folder / "train.npy", mmap_mode="c").dtype == np.uint8
    return decoded_cache.from_folder(
        name, folder, licence=f"that of the data in {source}", divisor=255.0 if is_bytes else 1.0
    )


def _decode(name: str, source: Path, target: Path) -> None:
    arrays = read_npz(source)
    missing = {"inputs", "labels"} - arrays.keys()
    if missing:
        raise InputError(
            f"data set '{name}': {source} has no array {' nor '.join(sorted(missing))}; "
            f"it has: {', '.join(sorted(arrays))}"
        )
    for key in {"inputs", "labels", "test_inputs", "test_labels"} & arrays.keys():
        wanted = "iu" if key.endswith("labels") else "biuf"
        if arrays[key].dtype.kind not in wanted:
            kind = "whole numbers" if key.endswith("labels") else "numbers"
            raise InputError(f"data set '{name}': {key} are {kind}, found {arrays[key].dtype}")
        if (
            key.endswith("labels")
            and arrays[key].size
            and not 0 <= arrays[key].min() <= arrays[key].max() < 2**20
        ):
            raise InputError(f"data set '{name}': {key} must be class numbers from 0, below {2**20}")
        if not key.endswith("labels") and not 2 <= arrays[key].ndim <= 4:
            raise InputError(
                f"data set '{name}': {key} has shape {arrays[key].shape}; expected images or rows"
            )
    labels = arrays["labels"]
    names = arrays.get("class_names")
    count = int(labels.max()) + 1 if labels.size else 0
    decoded_cache.write_names(target, [str(n) for n in (range(count) if names is None else names)])
    for part, prefix in (("train", ""), ("test", "test_")):
        if f"{prefix}inputs" not in arrays:
            continue
        inputs, own = arrays[f"{prefix}inputs"], arrays.get(f"{prefix}labels")
        if own is None or len(own) != len(inputs) or own.ndim != 1:
            raise InputError(f"data set '{name}': {prefix}inputs has {len(inputs)} examples and as many "
                             f"{prefix}labels are needed, found {'none' if own is None else own.shape}")  # fmt: skip
        if not np.isfinite(inputs).all():
            raise InputError(f"data set '{name}': {prefix}inputs holds values that are not finite")
        decoded_cache.write_part(target, part, _channels_first(inputs), own)


def _channels_first(inputs: np.ndarray) -> np.ndarray:
    inputs = inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32)
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[3] in (1, 3, 4) and inputs.shape[1] not in (1, 3, 4):
        return inputs.transpose(0, 3, 1, 2)
    return inputs
