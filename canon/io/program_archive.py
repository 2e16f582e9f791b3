"""The archive of an exported program, read without running anything that it carries.

`torch.export.load` unpacks and loads compiled code, unpickles objects and evaluates text before it looks
at what it was given. So it is never handed a file from outside: `sanitized` reads the archive's directory
itself, allows only what an ordinary network needs (graph, plain tensors, plain example inputs), checks
each part, and writes a new archive of the checked parts in memory. The layouts are those of
`torch.export.save` in PyTorch 2.5 to 2.7 (one folder, pickled tensors) and since 2.8 (raw tensors).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from canon.io import program_schema
from canon.validation import Invalid, shown

SPARE_BYTES = 1 << 26
"""A file may claim this many bytes of tensors more than four times its own size (expanded tensors)."""

_CURRENT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|"
    r"data/weights/(model_weights_config\.json|model\.pt|weight_[0-9]{1,9})|"
    r"data/constants/(model_constants_config\.json|model\.pt|tensor_[0-9]{1,9})|data/sample_inputs/model\.pt"
)
_OLD = re.compile(
    r"version|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)
_EXTRA = re.compile(r"(extra|extra_files)/[^/]+")  # notes of the program that wrote the file; not read
_EXECUTABLE = re.compile(
    r"(?i)aotinductor|aoti|executorch|\.(so|dll|dylib|o|cubin|cpp|cu|py|pyc|ptx|sh)(\.|$)"
)


def sanitized(path: str | os.PathLike[str]) -> io.BytesIO:
    """A new archive that holds the checked parts of the program at `path`, for `torch.export.load`.

    Raises `canon.validation.Invalid` for whatever is not part of an ordinary network, and what `zipfile`
    raises for a file that is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        members, old = _members(archive, os.stat(path).st_size)
        parts = _old_parts(archive, members) if old else _current_parts(archive, members)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as written:
            for name, content in parts:
                written.writestr(name if old else f"archive/{name}", content)
    buffer.seek(0)
    return buffer


def _members(archive: zipfile.ZipFile, size: int) -> tuple[dict[str, zipfile.ZipInfo], bool]:
    """The members that are used, by name within the archive's folder, and whether the layout is the old one."""
    infos = archive.infolist()
    _check_directory(infos, size)
    old = any(info.filename == "serialized_exported_program.json" for info in infos)
    folder = "" if old or not infos else infos[0].filename.partition("/")[0] + "/"
    members = {}
    for info in infos:
        name = info.filename.removeprefix(folder)
        if folder and not info.filename.startswith(folder):
            raise Invalid(f"the member {shown(info.filename)} lies outside the archive's folder")
        if (_OLD if old else _CURRENT).fullmatch(name):
            members[name] = info
        elif not _EXTRA.fullmatch(name) or _EXECUTABLE.search(name):
            what = "compiled code" if _EXECUTABLE.search(name) else "no part of an exported network"
            raise Invalid(f"the member {shown(name)} is {what}")
    return members, old


def _check_directory(infos: list[zipfile.ZipInfo], size: int) -> None:
    seen: set[str] = set()
    for info in infos:
        raw = info.orig_filename
        parts = raw.split("/")
        if raw != info.filename or "\\" in raw or any(part in ("", ".", "..") for part in parts):
            raise Invalid(f"the member name {shown(raw)} leaves its folder or is not in normal form")
        if not raw.isascii() and not raw.isprintable():
            raise Invalid(f"the member name {shown(raw)} is not text")
        if raw.casefold() in seen:
            raise Invalid(f"the member {shown(raw)} occurs twice")
        seen.add(raw.casefold())
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.file_size != info.compress_size
            or info.flag_bits & 1
        ):
            raise Invalid(
                f"the member {shown(raw)} is compressed or encrypted, as torch.export.save never does"
            )
    held = sum(info.file_size for info in infos)
    if held > size:
        raise Invalid(f"its members claim {held} bytes, the file holds {size}")


def _current_parts(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> Iterator[tuple[str, bytes]]:
    def content(name: str) -> bytes:
        if name not in members:
            raise Invalid(f"the member {name} is missing")
        return archive.read(members[name])

    if content("archive_format") != b"pt2":
        raise Invalid("the member archive_format does not say pt2")
    if not re.fullmatch(rb"[0-9]{1,4}", content("archive_version")):
        raise Invalid("the member archive_version is not a number")
    if "byteorder" in members and content("byteorder") != b"little":
        raise Invalid("its tensors are not little-endian")
    yield "archive_format", b"pt2"
    yield "archive_version", content("archive_version")
    yield "byteorder", b"little"
    yield ".data/version", b"6\n"
    yield "models/model.json", program_schema.program(content("models/model.json"))
    yield "data/sample_inputs/model.pt", _example_inputs(content("data/sample_inputs/model.pt"))
    for folder, config in (("weights", "model_weights_config"), ("constants", "model_constants_config")):
        pickled, listed = f"data/{folder}/model.pt", f"data/{folder}/{config}.json"
        if (pickled in members) == (listed in members):
            raise Invalid(f"expected one of the members {pickled} and {listed}")
        if pickled in members:
            yield pickled, _tensor_table(content(pickled))
            continue
        table = program_schema.payloads(content(listed))
        claimed = 0
        for name, entry in table.items():
            record = members.get(f"data/{folder}/{entry['path_name']}")
            if record is None:
                raise Invalid(f"tensor {shown(name)}: the member {entry['path_name']} is missing")
            claimed += _check_bounds(name, entry["tensor_meta"], record.file_size)
        _require_affordable(claimed, os.fstat(archive.fp.fileno()).st_size)  # type: ignore[union-attr]
        yield listed, json.dumps({"config": table}).encode()
        for used in dict.fromkeys(f"data/{folder}/{entry['path_name']}" for entry in table.values()):
            yield used, content(used)


def _old_parts(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Iterator[tuple[str, bytes]]:
    def content(name: str) -> bytes:
        if name not in members:
            raise Invalid(f"the member {name} is missing")
        return archive.read(members[name])

    if not re.fullmatch(rb"[0-9]{1,4}(\.[0-9]{1,4})?", content("version")):
        raise Invalid("the member version is not a number")
    yield "version", content("version")
    name = "serialized_exported_program.json"
    yield name, program_schema.program(content(name))
    for name in ("serialized_state_dict.pt", "serialized_constants.pt"):
        yield name, _tensor_table(content(name))
    yield "serialized_example_inputs.pt", _example_inputs(content("serialized_example_inputs.pt"))


_ITEM_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 29: 1, 30: 1,
    31: 1, 32: 1, 33: 1, 34: 4, 35: 8,
}  # fmt: skip
"""Bytes of an element, by the number that torch's schema gives the type."""


def _check_bounds(name: str, meta: dict[str, Any], held: int) -> int:
    """The bytes that a tensor claims, if it lies within the `held` bytes of its record."""
    if meta["dtype"] not in _ITEM_BYTES:
        raise Invalid(f"tensor {shown(name)} is of an unknown type, {meta['dtype']}")
    sizes, strides = ([v["as_int"] for v in meta[key]] for key in ("sizes", "strides"))
    if len(sizes) != len(strides):
        raise Invalid(f"tensor {shown(name)} has {len(sizes)} sizes and {len(strides)} strides")
    count = 1
    for size in sizes:
        count *= size
    if count == 0:
        return 0
    last = meta["storage_offset"]["as_int"] + sum((s - 1) * t for s, t in zip(sizes, strides, strict=True))
    item = _ITEM_BYTES[meta["dtype"]]
    if (last + 1) * item > held:
        raise Invalid(f"tensor {shown(name)} needs {(last + 1) * item} bytes, its record holds {held}")
    return count * item


def _require_affordable(claimed: int, held: int) -> None:
    if claimed > 4 * held + SPARE_BYTES:
        raise Invalid(f"its tensors claim {claimed} bytes, the file holds {held}")


def _load(content: bytes) -> Any:
    """A pickle of plain values, read without code and, first, without allocating what it claims."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for device in ("meta", "cpu"):
                found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
                if device == "meta":
                    tensors = list(_tensors(found))
                    _require_affordable(sum(t.numel() * t.element_size() for t in tensors), len(content))
                    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
                    _require_affordable(sum(storages.values()), len(content))
            return found
    except Invalid:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise Invalid(
            f"a pickle needs the code of {shown(named[1])}" if named else "a pickle is damaged"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise Invalid(f"a pickle is damaged ({shown(str(error), 100)})") from None


def _tensors(found: Any) -> Iterator[Tensor]:
    """Every tensor in plain containers; `Invalid` for anything else but numbers and short text."""
    stack, seen = [found], set()
    while stack:
        value = stack.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) in seen:  # shared containers could be walked for ever
                continue
            seen.add(id(value))
            if type(value) not in (dict, list, tuple) and type(value).__name__ != "OrderedDict":
                raise Invalid(f"a {shown(type(value).__name__)} among the tensors")
            if isinstance(value, dict):
                for key in value:
                    _check_key(key)
            stack.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, Tensor):
            plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
            if not plain or value.is_quantized or value.is_nested:
                raise Invalid(f"a {shown(type(value).__name__)} of layout {value.layout} among the tensors")
            yield value
        elif isinstance(value, str):
            program_schema.safe_text(value)
        elif value is not None and type(value) not in (int, float, bool):
            raise Invalid(f"a {shown(type(value).__name__)} among the tensors")


def _check_key(key: Any) -> None:
    if type(key) is not int:
        program_schema.tensor_name(key)


def _tensor_table(content: bytes) -> bytes:
    """A pickled table of tensors by name, rewritten; tensors that share memory go on to."""
    if not content:
        return b""
    found = _load(content)
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
    ):
        raise Invalid("its tensors are not a table of tensors by name")
    return _saved(dict(found))


def _example_inputs(content: bytes) -> bytes:
    """Pickled example inputs (a tuple, a table of keywords), rewritten."""
    if not content:
        return b""
    found = _load(content)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], tuple):
        raise Invalid("its example inputs are not a pair of a tuple and a table")
    if not isinstance(found[1], dict):
        raise Invalid("its example inputs are not a pair of a tuple and a table")
    for keyword in found[1]:
        program_schema.name(keyword)
    _check_keys(found)
    return _saved(found)


def _check_keys(found: Any) -> None:
    """Keys of example inputs stand in code that torch writes: identifiers and numbers only."""
    stack, seen = [found], set()
    while stack:
        value = stack.pop()
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            for key in value if isinstance(value, dict) else ():
                program_schema.input_key(key)
            stack.extend(value.values() if isinstance(value, dict) else value)


def _saved(found: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(found, buffer)
    return buffer.getvalue()
