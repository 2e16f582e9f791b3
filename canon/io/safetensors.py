"""The safetensors format, with two additions that the usual library lacks.

Layout: eight bytes with the header's length N (little endian), N bytes of JSON that map each name to
{dtype, shape, data_offsets}, then the data. Here a file is checked against its own size before a
tensor is allocated, and the header lists the tensors in the order of the state dict (the library
sorts them), while the data lies by falling item size so that every tensor stays aligned.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from canon.errors import InputError
from canon.io.files import replacing

HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read(path: str | os.PathLike[str], size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State and metadata of a file of `size` bytes; `InputError` where it is not what it claims."""
    header = read_header(path, size)
    metadata = header.pop("__metadata__", {})
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged: {error}; save or download it again") from None
    return {name: state[name] for name in header}, dict(metadata)


def read_header(path: str | os.PathLike[str], size: int) -> dict[str, Any]:
    """The header, checked: every tensor lies inside the file and fills exactly its bytes."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(
                f"{path} is not safetensors or is cut off: its header claims {length} bytes, "
                f"the file holds {max(size - 8, 0)} after the length; save or download it again"
            )
        if length > HEADER_LIMIT:
            raise InputError(f"{path} has a header of {length} bytes; at most {HEADER_LIMIT} are read")
        text = file.read(length)
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("not a table")
        _check(header, size - 8 - length)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}; save or download it again") from None
    return header


def _check(header: dict[str, Any], held: int) -> None:
    claimed = 0
    for name, entry in header.items():
        if name == "__metadata__":
            if not all(isinstance(value, str) for value in entry.values()):
                raise ValueError("its metadata is not text")
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] in _DTYPES:
            expected = prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
            if end - begin != expected:
                raise ValueError(f"{name} needs {expected} bytes, its offsets give {end - begin}")
        claimed = max(claimed, end)
    if claimed > held:
        raise ValueError(f"its header claims {claimed} bytes of tensors, the file holds {held}")


def write(path: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `state`, one tensor in memory at a time; nothing is left behind where it fails."""
    stored = sorted(state, key=lambda name: -state[name].dtype.itemsize)
    offsets, position = {}, 0
    for name in stored:
        end = position + state[name].numel() * state[name].dtype.itemsize
        offsets[name], position = [position, end], end
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in state.items():
        if tensor.dtype not in _NAMES:
            raise InputError(f"{name} is {tensor.dtype}, which safetensors cannot hold; write a .pt file")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets[name],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in stored:
            _write_tensor(file, state[name])


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
