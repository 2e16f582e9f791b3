"""The formats of files that hold networks, recognised by a file's suffix or, where it has none of these, by its content."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from canon.errors import InputError

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".th", ".tar")
SUFFIXES = (".safetensors", *PICKLES, ".pt2")
_PROGRAM = ("models/", "serialized_exported_program.json", "archive_format")


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of `path`, in lower case; `InputError` where it is none that can be read and written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a network's file name ends in one of {', '.join(SUFFIXES)}")
    return suffix


def format_of(path: str | os.PathLike[str]) -> str:
    """The suffix of `path`, or the suffix that its content ought to have where it has none that is known.

    Raises `InputError` where the content is that of no format either.
    """
    suffix = Path(path).suffix.lower()
    return suffix if suffix in SUFFIXES else _by_content(path)


def _by_content(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return ".safetensors"
    if start[:2] == b"\x80\x02":  # torch's own format before 1.6 and plain pickles
        return ".pt"
    if start[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name.partition("/")[2] for name in archive.namelist()]
        if any(name.startswith(_PROGRAM) for name in inside):
            return ".pt2"
        if "data.pkl" in inside:
            return ".pt"
    raise InputError(
        f"{path} is not a network: its name ends in none of {', '.join(SUFFIXES)}, and its content is neither safetensors "
        "nor what torch.save or torch.export.save write; save its state_dict with torch.save"
    )
