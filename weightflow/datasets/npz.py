"""Data sets in one .npz file: `inputs`, `labels`, optionally `test_inputs`, `test_labels`, `class_names`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from canon.errors import InputError
from canon.io.arrays import read_npz
from weightflow.data import decoded_cache
from weightflow.data.partition import content_keys
from weightflow.data.types import ClassificationData

PARTS = {"train": "", "test": "test_"}
MOST_CLASSES = 2**20
CHANNELS = (1, 3, 4)
"""Grey, colour, and colour with transparency."""


def npz(path: str, channels_first: bool = False, channels_last: bool = False) -> ClassificationData:
    """Arrays `inputs` and `labels`, optionally `test_inputs`, `test_labels`, `class_names`.

    Images are (examples, height, width[, channels]) or (examples, channels, height, width), bytes 0 to
    255 or floats; rows are (examples, features), each feature standardised by itself. Labels are class numbers from
    0, names, or one-hot rows. Without class names, classes are called by their number.
    """
    source, name = Path(path).expanduser(), f"npz:{path}"
    if not source.is_file():
        raise InputError(f"data set '{name}': {source} does not exist")
    if channels_first and channels_last:
        raise InputError(f"data set '{name}': ?channels_first and ?channels_last exclude each other")
    axis = 1 if channels_first else 3 if channels_last else None
    key = decoded_cache.identity("npz", [source], axis=axis)
    folder = decoded_cache.decoded(key, lambda target: _decode(name, source, target, axis))
    is_bytes = np.load(folder / "train.npy", mmap_mode="c").dtype == np.uint8
    return decoded_cache.from_folder(
        name,
        folder,
        licence=f"that of the data in {source.name}",
        divisor=255.0 if is_bytes else 1.0,
        per_feature=True,
    )


def _decode(name: str, source: Path, target: Path, axis: int | None) -> None:
    arrays = read_npz(source)
    missing = {"inputs", "labels"} - arrays.keys()
    if missing:
        raise InputError(
            f"data set '{name}': {source} has no array {' nor '.join(sorted(missing))}; "
            f"it has: {', '.join(sorted(arrays))}"
        )
    if not len(arrays["inputs"]):
        raise InputError(f"data set '{name}': inputs holds no example")
    parts = {part: prefix for part, prefix in PARTS.items() if f"{prefix}inputs" in arrays}
    for prefix in parts.values():
        _check_inputs(name, arrays, prefix)
    kinds = [(arrays[f"{p}inputs"].shape[1:], arrays[f"{p}inputs"].dtype == np.uint8) for p in parts.values()]
    if len({shape for shape, _ in kinds}) > 1:
        raise InputError(
            f"data set '{name}': examples of inputs have shape {kinds[0][0]}, those of test_inputs {kinds[1][0]}"
        )
    if len({is_bytes for _, is_bytes in kinds}) > 1:
        raise InputError(
            f"data set '{name}': inputs are {arrays['inputs'].dtype}, test_inputs {arrays['test_inputs'].dtype}; "
            "save both as bytes or both as floats, on one scale"
        )
    given = _texts(name, "class_names", arrays["class_names"]) if "class_names" in arrays else None
    names = given or _names(name, arrays["labels"])
    decoded_cache.write_names(target, names)
    axis = _channel_axis(name, arrays["inputs"]) if axis is None else axis
    for part, prefix in parts.items():
        labels = _numbers(name, f"{prefix}labels", arrays[f"{prefix}labels"], names)
        inputs = _in_float32(name, f"{prefix}inputs", _channels_first(arrays[f"{prefix}inputs"], axis))
        decoded_cache.write_part(target, part, inputs, labels, content_keys(inputs))


def _check_inputs(name: str, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """`InputError` where inputs are no examples, or there are no as many labels."""
    inputs, labels = arrays[f"{prefix}inputs"], arrays.get(f"{prefix}labels")
    if inputs.dtype.kind not in "biuf":
        raise InputError(f"data set '{name}': {prefix}inputs are numbers, found {inputs.dtype}")
    if not 2 <= inputs.ndim <= 4 or 0 in inputs.shape[1:]:
        raise InputError(
            f"data set '{name}': {prefix}inputs has shape {inputs.shape}; expected images or rows"
        )
    if labels is None or len(labels) != len(inputs) or labels.ndim > 2:
        raise InputError(f"data set '{name}': {prefix}inputs has {len(inputs)} examples and as many "
                         f"{prefix}labels are needed, found {'none' if labels is None else labels.shape}")  # fmt: skip


def _texts(name: str, key: str, values: np.ndarray) -> list[str]:
    """Names as text, from text, bytes in UTF-8 or numbers."""
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel()]
    except UnicodeDecodeError:
        raise InputError(f"data set '{name}': {key} are bytes that are no UTF-8; save them as text") from None


def _names(name: str, labels: np.ndarray) -> list[str]:
    """The classes where none are named: the words among the labels, sorted, or numbers."""
    if labels.dtype.kind in "US":
        return sorted(set(_texts(name, "labels", labels)))
    numbers = _numbers(name, "labels", labels, None)
    return [str(number) for number in range(int(numbers.max()) + 1)]


def _numbers(name: str, key: str, labels: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    """Labels as class numbers: as they are, or from words, truth values or one-hot rows."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "US" and labels.ndim == 1:
        place = {own: index for index, own in enumerate(names or ())}
        words = _texts(name, key, labels)
        unknown = next((word for word in words if word not in place), None)
        if unknown is not None:
            listed = ", ".join(list(place)[:10])
            raise InputError(
                f"data set '{name}': {key} has '{unknown}', which is not a class; there are: {listed}"
            )
        return np.array([place[word] for word in words], dtype=np.int64)
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        if not ((labels == 0) | (labels == 1)).all() or not (labels.sum(axis=1) == 1).all():
            raise InputError(
                f"data set '{name}': {key} has shape {labels.shape} and is not one-hot (a single 1 a row, else 0); "
                "give one class number an example"
            )
        return labels.argmax(axis=1).astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise InputError(
            f"data set '{name}': {key} are whole numbers, words or one-hot rows, found {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise InputError(f"data set '{name}': {key} must be class numbers from 0, below {MOST_CLASSES}")
    return labels.astype(np.int64)


def _in_float32(name: str, key: str, inputs: np.ndarray) -> np.ndarray:
    """Bytes as they are, else float32; `InputError` where it holds what is not a number there."""
    if inputs.dtype == np.uint8:
        return inputs
    if not np.isfinite(inputs).all():
        raise InputError(f"data set '{name}': {key} holds values that are not finite")
    with np.errstate(over="ignore"):
        found = inputs.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(
            f"data set '{name}': {key} holds values up to {np.abs(inputs).max():.1e}, beyond float32; scale them"
        )
    return found


def _channel_axis(name: str, inputs: np.ndarray) -> int:
    """The axis of channels in (examples, 3 axes): that of 1, 3 or 4 entries, or that beside two of one length."""
    if inputs.ndim != 4:
        return 1
    _, first, middle, last = inputs.shape
    if (first in CHANNELS) != (last in CHANNELS):
        return 1 if first in CHANNELS else 3
    if (middle == last) != (first == middle):
        return 1 if middle == last else 3
    raise InputError(
        f"data set '{name}': inputs has shape {inputs.shape}, whose channels may be first or last; "
        "add ?channels_first or ?channels_last"
    )


def _channels_first(inputs: np.ndarray, axis: int) -> np.ndarray:
    if inputs.ndim == 3:
        return inputs[:, None]
    return inputs.transpose(0, 3, 1, 2) if inputs.ndim == 4 and axis == 3 else inputs
