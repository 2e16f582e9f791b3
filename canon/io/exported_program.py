"""Exported programs, `.pt2`: a network's weights and its code, as torch.export writes them."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.io.files import replacing
from canon.io.torch_pickle import refusal


def read(path: str | os.PathLike[str]) -> Any:
    """The exported program in a file; `InputError` where it is none or carries code beyond its graph."""
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
    return program


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
                raise InputError(refusal(path, str(error))) from None


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


def write(path: str | os.PathLike[str], found: Any, state: Mapping[str, Tensor]) -> None:
    """Write the program `found` with the tensors of `state`; the program itself stays as it was."""
    if found is None:
        raise InputError(f"{path}: a .pt2 file holds a program, and there is none; write .safetensors")
    program = copy.copy(found)
    program._state_dict = {
        name: nn.Parameter(state[name], old.requires_grad) if isinstance(old, nn.Parameter) else state[name]
        for name, old in found.state_dict.items()
    }
    buffer = io.BytesIO()
    with _quiet_export():
        torch.export.save(program, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())
