"""Exported programs, `.pt2`: a network's weights and its code, as torch.export writes them."""

from __future__ import annotations

import copy
import io
import logging
import os
import typing
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.io.files import atomic_open
from canon.io.program_archive import sanitized
from canon.io.program_rehearsal import rehearse
from canon.validation import Invalid, shown

WAY_OUT = "save its state_dict as .safetensors and give its code with --model"


def read(path: str | os.PathLike[str]) -> Any:
    """The exported program in a file, checked first; guards and notes for debugging are left out.

    Raises `InputError` where the file is none, or carries anything but a graph and plain tensors.
    """
    try:
        safe = sanitized(path)
    except Invalid as error:
        raise InputError(f"{path} was refused: {error}; {WAY_OUT}") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged or is not a torch.export file ({shown(str(error), 120)}); "
            "write it with torch.export.save"
        ) from None
    try:
        with quiet_export(), _type_hints_once():
            program = torch.export.load(safe)
    except Exception as error:  # torch.export raises exceptions of many classes
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is damaged, or this version of PyTorch cannot read it ({shown(first, 120)}); "
            "write it with torch.export.save"
        ) from None
    try:
        with quiet_export():
            rehearse(program, os.path.getsize(path))
    except Invalid as error:
        raise InputError(f"{path} was refused: {error}; {WAY_OUT}") from None
    return program


@contextmanager
def quiet_export() -> Iterator[None]:
    """Within the block, torch's exporters and readers log, print and warn of nothing: what matters is in the error."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # a graph that could not be finished is printed
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _type_hints_once() -> Iterator[None]:
    """Within the block, `typing.get_type_hints` resolves each class once: torch asks again for every operation."""
    resolve, known = typing.get_type_hints, dict[Any, Any]()

    def resolved(owner: Any, **options: Any) -> dict[str, Any]:
        key = (owner, *((name, id(value)) for name, value in options.items()))
        if key not in known:
            known[key] = resolve(owner, **options)
        return known[key]

    with mock.patch.object(typing, "get_type_hints", resolved):
        yield


def write(
    path: str | os.PathLike[str], found: Any, state: Mapping[str, Tensor], *, follow: bool = False
) -> None:
    """Write the program `found` with the tensors of `state`; the program itself stays as it was."""
    if found is None:
        raise InputError(f"{path}: a .pt2 file holds a program, and there is none; write .safetensors")
    program = copy.copy(found)
    program._state_dict = {
        name: nn.Parameter(state[name], old.requires_grad) if isinstance(old, nn.Parameter) else state[name]
        for name, old in found.state_dict.items()
    }
    buffer = io.BytesIO()
    with quiet_export():
        torch.export.save(program, buffer)
    with atomic_open(path, follow=follow) as file:
        file.write(buffer.getbuffer())
