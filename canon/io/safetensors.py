"""The safetensors format, with three additions that the usual library lacks.

Layout: eight bytes with the header's length N (little endian), N bytes of JSON that map each name to
{dtype, shape, data_offsets}, then the data. Here a file is checked against its own size before a
tensor is allocated, and the header lists the tensors in the order of the state dict (the library
sorts them), while the data lies by falling item size so that every tensor stays aligned. And its metadata
holds a SHA-256 of the whole file, computed with zeros in its own place, which is checked when the file is
read: one damaged byte is noticed. Files of others have none and are read as they are.
"""

from __future__ import annotations

import hashlib
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
from canon.io.files import atomic_open
from canon.types import like
from canon.validation import Invalid, integer, items, parse_json, record, shown, table, text

DIGEST = "file_sha256"
_DIGITS = 64
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


_ENTRY = record(
    {
        "dtype": text(r"[A-Z0-9_]{1,20}"),
        "shape": items(integer(0, 2**48), 64),
        "data_offsets": items(integer(0, 2**60), 2),
    }
)
_METADATA = table(text(r"(?s).*", 10_000), text(r"(?s).*", HEADER_LIMIT))


def _checked_header(found: Any) -> dict[str, Any]:
    own = {"__metadata__": _METADATA}
    if not isinstance(found, dict):
        raise Invalid("not a table")
    checked = {}
    for name, value in found.items():
        try:
            checked[name] = own.get(name, _ENTRY)(value)
        except Invalid as error:
            raise error.within(name) from None
    return checked


def read(path: str | os.PathLike[str], size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State and metadata of a file of `size` bytes; `InputError` where it is not what it claims."""
    header = read_header(path, size)
    metadata = header.pop("__metadata__", {})
    verify(path, metadata.pop(DIGEST, None))
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged: {error}; save or download it again") from None
    return {name: state[name] for name in header}, dict(metadata)


def verify(path: str | os.PathLike[str], digest: str | None) -> None:
    """`InputError` unless the file matches the digest in its metadata, where it has one."""
    if digest is None:
        return
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        found = hashlib.sha256(length + header.replace(digest.encode(), b"0" * _DIGITS, 1))
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != digest:
        raise InputError(
            f"{path} is damaged: its content does not match the SHA-256 in it; restore it or make it again"
        )


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
        content = file.read(length)
    try:
        header = _checked_header(parse_json(content, HEADER_LIMIT))
        _check(header, size - 8 - length)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; save or download it again") from None
    return header


def _check(header: dict[str, Any], held: int) -> None:
    claimed = 0
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if len(entry["data_offsets"]) != 2:
            raise ValueError(f"{shown(name)} has {len(entry['data_offsets'])} offsets")
        begin, end = entry["data_offsets"]
        if entry["dtype"] in _DTYPES:
            expected = prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
            if end - begin != expected:  # of checked sizes: see _ENTRY
                raise ValueError(f"{shown(name)} needs {expected} bytes, its offsets give {end - begin}")
        claimed = max(claimed, end)
        places.append((begin, end, name))
    if claimed != held:
        raise ValueError(f"its header claims {claimed} bytes of tensors, the file holds {held}")
    position = 0
    for begin, end, name in sorted(places):
        if begin != position or end < begin:
            raise ValueError(
                f"{shown(name)} begins at byte {begin}, where {position} is the next that is free"
            )
        position = end


def write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    follow: bool = False,
) -> None:
    """Write `state`, one tensor in memory at a time; nothing is left behind where it fails."""
    known = like(state)
    stored = sorted(state, key=lambda name: -known[name].dtype.itemsize)
    offsets, position = {}, 0
    for name in stored:
        end = position + known[name].numel() * known[name].dtype.itemsize
        offsets[name], position = [position, end], end
    blank = "0" * _DIGITS
    header: dict[str, Any] = {
        "__metadata__": {DIGEST: blank} | {k: v for k, v in metadata.items() if k != DIGEST}
    }
    for name in state:
        tensor = known[name]
        if tensor.dtype not in _NAMES:
            raise InputError(f"{name} is {tensor.dtype}, which safetensors cannot hold; write a .pt file")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets[name],
        }
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    start = len(content).to_bytes(8, "little") + content
    found = hashlib.sha256(start)
    with atomic_open(path, follow=follow) as file:
        file.write(start)
        for name in stored:
            _write_tensor(file, state[name], found)
        file.seek(start.index(blank.encode()))
        file.write(found.hexdigest().encode())


def _write_tensor(file: BinaryIO, tensor: Tensor, found: Any) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        content = flat.view(torch.uint8).numpy().data
        found.update(content)
        file.write(content)
