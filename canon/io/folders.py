"""Atomic folder writes: fill a temporary folder, then rename it."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from canon.errors import InputError
from canon.io.files import explain, remove_left_behind, require_folder, temporary_name
from canon.io.formats import SUFFIXES
from canon.validation import many

if sys.platform != "win32":
    import fcntl

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


def require_space(path: Name, networks: int, size: int, *, anew: bool = False) -> None:
    """`InputError` where the disk of a folder at `path`, which may not be there yet, cannot hold `networks` of `size` bytes.

    What lies in the folder already counts as written, but where all are written `anew` beside it.
    """
    needed = networks * size
    place = Path(path).absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed <= free:  # without a walk through the folder
        return
    files = () if anew or not os.path.isdir(path) else Path(path).rglob("*")
    needed -= sum(file.lstat().st_size for file in files)
    if needed > free:
        raise InputError(
            f"{path} cannot be written: {many(networks, 'network')} of {size} bytes need {needed} more, and {free} "
            "bytes are free; ask for fewer, free some space, or choose a place on another disk"
        )


def require_apart(path: Name, *sources: Name) -> None:
    """`InputError` where a result at `path` would be one of the `sources`, lie within one, or hold one."""
    target = Path(os.path.realpath(path))
    for source in sources:
        own = Path(os.path.realpath(source))
        if target == own:
            raise InputError(f"{path} is the input itself; choose another name for the result")
        if own in target.parents:
            raise InputError(f"{path} lies within the input {source}; choose a place outside of it")
        if target in own.parents:
            raise InputError(f"{path} holds the input {source}; choose a new folder")


@contextmanager
def writing_into(path: Name) -> Iterator[None]:
    """Hold the folder at `path`, made where it is missing; `InputError` at once where another process holds it.

    The lock is one of the directory itself, so that it leaves no file and ends with its process. There is none on
    Windows and on file systems without it. A folder that was made here and is empty at the end is removed.
    """
    folder = Path(path).absolute()
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    descriptor = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(folder)
        except BlockingIOError:
            raise InputError(
                f"another process is writing into {path}; wait until it ends, or choose another folder"
            ) from None
        except OSError as error:
            raise explain(path, error) from error
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        with suppress(OSError):  # it was moved
            for place in itertools.takewhile(lambda place: not os.listdir(place), missing):
                place.rmdir()


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None where the system has no such locks."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


@contextmanager
def new_folder(path: Name) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` if the block succeeds, and removed if it fails.

    Raises `InputError` where `path` holds something already or cannot be made, `WorkError` where the disk is full.
    """
    require_new_folder(path)
    target = Path(path).absolute()
    temporary = temporary_name(target)
    with writing_into(target):
        yield from _renamed(path, target, temporary)


def _renamed(path: Name, target: Path, temporary: Path) -> Iterator[Path]:
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
