"""PyTorch's own files, read without running what they might carry.

They are archives whose members have CRC-32 sums, which `torch.load` does not look at. Here they are checked, so that
one damaged byte is noticed. Files written under `torch.serialization.set_crc32_options(False)`, or in PyTorch's
format before 1.6, have none and are read as they are.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.container import parts_of
from canon.io.files import require_file
from canon.validation import MAX_DEPTH, shown


def read(path: str | os.PathLike[str]) -> Any:
    """Whatever a `.pt` file holds, if it needs no code: `InputError` otherwise."""
    size = require_file(path)
    _check_records(path, size)
    # Shapes first, on a device that allocates nothing: a small file may claim any size. Tensors that are tied
    # share their bytes, so each is compared with the file's size by itself.
    found = _load(path, "meta")
    _check_nesting(path, found)
    tensors = (part for part in parts_of(found) if isinstance(part, Tensor))
    claimed = max((t.numel() * t.dtype.itemsize for t in tensors), default=0)
    if claimed > size:
        raise InputError(f"{path} claims {claimed} bytes of tensors, the file holds {size}; save it again")
    return _load(path, "cpu")


def _load(path: str | os.PathLike[str], device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(refusal(path, str(error))) from None
    except Exception as error:  # a damaged pickle can fail in any way at all
        first = (str(error) or type(error).__name__).splitlines()[0]
        if "torchscript" in first.lower():
            raise InputError(
                f"{path} is a TorchScript program, which holds code; save `torch.jit.load(…).state_dict()` instead"
            ) from None
        if "quantized" in first.lower():
            raise InputError(
                f"{path} holds quantized tensors, whose units have scales of their own; give the network before it was "
                "quantized, or save `tensor.dequantize()` of each"
            ) from None
        raise InputError(
            f"{path} is damaged or is no PyTorch file ({first[:120]}); save or download it again"
        ) from None


def refusal(path: str | os.PathLike[str], text: str) -> str:
    """Why a pickle was refused, and the way out, from what the unpickler said."""
    named = re.search(r"GLOBAL (\S+)", text)
    if named is None:
        return (
            f"{path} is no PyTorch file, or is a pickle that needs code; save the state_dict as safetensors"
        )
    return (
        f"{path} is a pickle that needs the code of {named[1]} to load, which could do anything, so it was "
        "refused; where you trust it, load it yourself and save `model.state_dict()` as .safetensors"
    )


def _check_nesting(path: str | os.PathLike[str], found: Any) -> None:
    """`InputError` where containers lie in each other too deep, or in themselves: a pickle can say that."""
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{path} is nested deeper than {MAX_DEPTH} levels; save the state_dict alone")
        inner: dict[int, Any] = {}  # of each container once, however often it is referred to
        for value in level:
            parts = value.values() if isinstance(value, Mapping) else value
            if isinstance(value, (Mapping, list, tuple)):
                inner |= {id(part): part for part in parts}
        level = list(inner.values())


def _check_records(path: str | os.PathLike[str], size: int) -> None:
    """`InputError` where the archive's records claim more bytes than the file holds, or are damaged."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            claimed = sum(record.file_size for record in records)
            if claimed > size:
                raise InputError(
                    f"{path} claims {claimed} bytes of tensors, the file holds {size}; save it again"
                )
            damaged = archive.testzip() if any(record.CRC for record in records) else None
    except InputError:
        raise
    except Exception as error:  # zipfile raises many classes: struct.error, NotImplementedError, ...
        raise InputError(f"{path} is damaged ({shown(str(error), 120)}); save or download it again") from None
    if damaged is not None:
        raise InputError(
            f"{path} is damaged: '{shown(damaged)}' in it does not match its CRC-32; save or download it again"
        )
