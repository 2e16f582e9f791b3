"""Atomic folder writes: fill a temporary folder, then rename it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from canon.errors import InputError
from canon.io.files import explain, remove_left_behind, require_folder, temporary_name
from canon.io.formats import SUFFIXES

Name = str | os.PathLike[str]


def is_folder_name(path: Name) -> bool:
    """Whether a network written at `path` becomes a folder where it came from one: the name has no file's suffix."""
    return Path(path).suffix.lower() not in SUFFIXES


def require_output(path: Name, source: Name) -> None:
    """`InputError` unless the result for `source` can be written at `path`; checked before the work starts.

    A folder, or a name of the Hub, becomes a new folder where `path` has no suffix of a file.
    """
    if os.path.isfile(source) or not is_folder_name(path):
        require_folder(path)
    else:
        require_new_folder(path)


def require_new_folder(path: Name) -> None:
    """`InputError` unless a folder could be made at `path`, where none with anything in it may be."""
    if os.path.lexists(path):
        if not os.path.isdir(path):
            raise InputError(f"{path} exists and is a file; name a new folder")
        if os.listdir(path):
            raise InputError(f"{path} exists and is not empty; name a new folder")
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path} cannot be written: {parent} is read-only")


def require_place(path: Name) -> None:
    """`InputError` unless a command can write into a folder at `path`; checked before the work starts.

    The folder may be there already, with anything in it, or be made with the folders above it.
    """
    place = Path(path).absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path} cannot be written: {place} is not a folder; choose another name")
    if not os.access(place, os.W_OK):
        raise InputError(f"{path} cannot be written: {place} is read-only; choose another place")


@contextmanager
def new_folder(path: Name) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` if the block succeeds, and removed if it fails.

    Raises `InputError` where `path` holds something already or cannot be made, `WorkError` where the disk is full.
    """
    require_new_folder(path)
    target = Path(path).absolute()
    temporary = temporary_name(target)
    try:
        remove_left_behind(target)
        shutil.rmtree(temporary, ignore_errors=True)  # of this process: it was interrupted before
        temporary.mkdir()
        yield temporary
        if target.is_dir():
            target.rmdir()  # an empty one
        os.rename(temporary, target)
    except OSError as error:
        raise explain(path, error) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
