"""Read arrays from untrusted `.npz` files: no code is run, and sizes are checked before allocation."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from canon.errors import InputError
from canon.io.files import require_file
from canon.validation import shown

RATIO, SPARE = 100, 1 << 28
"""A file may hold so many times its own bytes, and always 256 MiB: zeros compress well, bombs do better."""
LIMIT = 1 << 34
KINDS = "biufUS"
"""Truth values, whole numbers, floats and text; no objects, records, dates or complex numbers."""


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a `.npz` file in this machine's byte order, none without axes; `InputError` says what is wrong with it."""
    size = require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(info.file_size for info in archive.infolist())
            if held > min(RATIO * size + SPARE, LIMIT):
                raise InputError(f"{path} unpacks to {held} bytes from {size}; save its arrays uncompressed")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of many classes
        raise InputError(
            f"{path} is damaged or is not a .npz file of plain arrays ({shown(str(error), 120)}); save it again, words as array.astype(str)"
        ) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in KINDS or array.ndim == 0:
            kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "no array"
            raise InputError(
                f"{path}: '{shown(name)}' is {shown(kind)}; expected numbers or text along an axis"
            )
    native = {name: _as_torch_takes_it(array) for name, array in arrays.items()}
    for name, array in native.items():
        if not _is_text(array):
            raise InputError(
                f"{path} is damaged: '{shown(name)}' holds characters that there are none of; save it again"
            )
    return native


def _is_text(array: np.ndarray) -> bool:
    """Whether every character is one of Unicode's, which numpy does not check, and no half of a pair."""
    if array.dtype.kind != "U" or not array.size or not array.dtype.itemsize:
        return True
    codes = np.ascontiguousarray(array).view(np.uint32)
    return not ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()


def _as_torch_takes_it(array: np.ndarray) -> np.ndarray:
    """The same values in the byte order of this machine, and floats of more than 64 bits in 64."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
