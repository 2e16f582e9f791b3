"""Read and write networks safely.

A network is a plain `state_dict`. `.safetensors` is the file to prefer: it cannot hold code. `.pt`,
`.pth` and `.bin` are pickles and are read with `weights_only=True`. `.pt2` (torch.export) holds the
program too; it is a program, so open only those whose origin you trust.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon import safetensors_file
from canon.errors import InputError
from canon.files import replacing, require_file

PICKLES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLES, ".pt2")
_NESTED = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Checkpoint:
    """A network as a file holds it: tensors in the file's order, and the file's own words about it.

    `program` is the exported program of a `.pt2` file, `versions` what `nn.Module.state_dict` notes
    about its modules (a `.pt` file keeps it).
    """

    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    program: Any = None
    versions: Any = None

    def with_state(self, state: Mapping[str, Tensor]) -> Checkpoint:
        """The same file with other numbers: keys, order, dtypes, metadata and tied tensors are kept."""
        kept: dict[str, Tensor] = {}
        first: dict[tuple[Any, ...], str] = {}
        for name, old in self.state.items():
            owner = first.setdefault(_place(old), name) if old.numel() else name
            kept[name] = kept[owner] if owner != name else state[name].to(old.dtype)
        return Checkpoint(kept, dict(self.metadata), self.program, self.versions)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The network in a file. Raises `InputError`, in one line, for whatever is wrong with the file."""
    suffix = check_suffix(path)
    size = require_file(path)
    if suffix == ".safetensors":
        found = Checkpoint(*safetensors_file.read(path, size))
    elif suffix == ".pt2":
        found = _read_program(path)
    else:
        found = _read_state_dict(path)
    if not found.state:
        raise InputError(f"{path} holds no tensor; save a network's state_dict")
    return found


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of `path`, in lower case; `InputError` where it is none that can be read and written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a network's file name ends in one of {', '.join(SUFFIXES)}")
    return suffix


def require_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], who_a: str, who_b: str) -> None:
    """Raise `InputError` unless keys and shapes agree; the first ten differences are listed."""
    differences = []
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in b:
            differences.append(f"{name} {tuple(a[name].shape)} only in {who_a}")
        elif name not in a:
            differences.append(f"{name} {tuple(b[name].shape)} only in {who_b}")
        elif a[name].shape != b[name].shape:
            differences.append(f"{name} {tuple(a[name].shape)} and {tuple(b[name].shape)}")
    if differences:
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise InputError(
            f"{who_a} and {who_b} are different architectures: {'; '.join(differences[:10])}{more}"
        )


def require_finite(state: Mapping[str, Tensor], who: str) -> None:
    """Raise `InputError` where a tensor holds NaN or infinity: no matching can make sense of it."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise InputError(f"{who}: {name} holds NaN or infinity ({bad} of {tensor.numel()} values)")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Whatever a `.pt` file holds, if it needs no code: `InputError` otherwise."""
    size = require_file(path)
    # Shapes first, on a device that allocates nothing: a small file may claim any size.
    claimed = sum(_storage_bytes(_tensors(_load(path, "meta"))))
    if claimed > size:
        raise InputError(f"{path} claims {claimed} bytes of tensors, the file holds {size}; save it again")
    return _load(path, "cpu")


def _read_state_dict(path: str | os.PathLike[str]) -> Checkpoint:
    inner = _unnest(read_pickle(path))
    if not isinstance(inner, Mapping):
        raise InputError(
            f"{path} holds a {type(inner).__name__}, not a state_dict; save `model.state_dict()` instead"
        )
    wrong = [str(name) for name, value in inner.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InputError(
            f"{path} is not a state_dict: {', '.join(wrong[:5])} is not a tensor; save `model.state_dict()`"
        )
    state = {str(name): value.detach() for name, value in inner.items()}
    return Checkpoint(
        state, dict(getattr(inner, "file_metadata", {})), versions=getattr(inner, "_metadata", None)
    )


def _unnest(found: Any) -> Any:
    if isinstance(found, Mapping):
        for key in _NESTED:
            if isinstance(found.get(key), Mapping):
                return found[key]
    return found


def _load(path: str | os.PathLike[str], device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_explain_pickle(path, str(error))) from None
    except Exception as error:  # a damaged pickle can fail in any way at all
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is damaged or is no PyTorch file ({first[:120]}); save or download it again"
        ) from None


def _explain_pickle(path: str | os.PathLike[str], text: str) -> str:
    named = re.search(r"GLOBAL (\S+)", text)
    if named is None:
        return (
            f"{path} is no PyTorch file, or is a pickle that needs code; save the state_dict as safetensors"
        )
    return (
        f"{path} is a pickle that needs the code of {named[1]} to load, which could do anything, so it was "
        "refused; where you trust it, load it yourself and save `model.state_dict()` as .safetensors"
    )


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _tensors(value)


def _storage_bytes(tensors: Iterator[Tensor]) -> Iterator[int]:
    seen = set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            yield storage.nbytes()


def _read_program(path: str | os.PathLike[str]) -> Checkpoint:
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_code(path, archive)
        with _quiet_export():
            program = torch.export.load(path)
    except InputError:
        raise
    except Exception as error:  # torch.export raises whatever its parser met
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is damaged or is no torch.export file ({first[:120]}); write it with torch.export.save"
        ) from None
    return Checkpoint({name: tensor.detach() for name, tensor in program.state_dict.items()}, {}, program)


def _refuse_code(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> None:
    # torch.export.load falls back to full unpickling for these records; here they must do without.
    for name in archive.namelist():
        folder, record = os.path.split(name)
        if record.startswith("custom_obj"):
            raise InputError(f"{path} carries the object {record}, which needs code to load; it was refused")
        pickled = [name] if record.endswith(".pt") else []
        if record.endswith("_config.json"):
            entries = json.loads(archive.read(name)).get("config", {})
            pickled = [f"{folder}/{e['path_name']}" for e in entries.values() if e.get("use_pickle")]
        for item in pickled:
            try:
                torch.load(io.BytesIO(archive.read(item)), map_location="meta", weights_only=True)
            except pickle.UnpicklingError as error:
                raise InputError(_explain_pickle(path, str(error))) from None


@contextmanager
def _quiet_export() -> Iterator[None]:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor] | Checkpoint,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, all of it or nothing; the suffix decides the format.

    Tied tensors stay tied in `.pt` files and are written twice in safetensors, which knows no ties.
    Raises `InputError` where the path cannot be written and `WorkError` where the disk is full.
    """
    found = state if isinstance(state, Checkpoint) else Checkpoint(dict(state))
    metadata = found.metadata if metadata is None else metadata
    suffix = check_suffix(path)
    if suffix == ".safetensors":
        safetensors_file.write(path, found.state, metadata)
    elif suffix == ".pt2":
        _write_program(path, found)
    else:
        _write_pickle(path, found, metadata)


def _write_pickle(path: str | os.PathLike[str], found: Checkpoint, metadata: Mapping[str, str]) -> None:
    whole: Any = OrderedDict(found.state)
    if found.versions is not None:
        whole._metadata = found.versions
    if metadata:
        whole.file_metadata = dict(metadata)
    with replacing(path) as file:
        torch.save(whole, file)


def _write_program(path: str | os.PathLike[str], found: Checkpoint) -> None:
    if found.program is None:
        raise InputError(f"{path}: a .pt2 file holds a program, and there is none; write .safetensors")
    program = copy.copy(found.program)
    program._state_dict = {
        name: torch.nn.Parameter(found.state[name])
        if isinstance(old, torch.nn.Parameter)
        else found.state[name]
        for name, old in found.program.state_dict.items()
    }
    buffer = io.BytesIO()
    with _quiet_export():
        torch.export.save(program, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())
