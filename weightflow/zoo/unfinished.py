"""Marks in unfinished output folders, so that the same command can restart after a kill.

The mark is the first file that is written and the last that goes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from canon.errors import InputError
from canon.io.files import atomic_write, read_bounded
from canon.io.folders import require_place
from weightflow import folders

MARK = folders.UNFINISHED
LOCK = ".lock"
"""Held by the process that writes into a folder; it stays there."""


def begin(folder: Path, work: str) -> None:
    """An empty folder with the mark of `work`; what the same work left there unfinished is removed.

    Raises `InputError` where the folder holds anything else.
    """
    require_free(folder, work)
    mark(folder, work)
    for path in folder.iterdir():
        if path.name not in (MARK, LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def mark(folder: Path, work: str) -> None:
    """Mark a folder that `work` is about to write into; what lies there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / MARK, work)


def require_free(folder: Path, work: str) -> None:
    """`InputError` unless the folder can be made, is empty, or holds what `work` left unfinished."""
    require_place(folder)
    if not os.path.lexists(folder) or is_unfinished(folder, work):
        return
    if not folder.is_dir() or any(not _is_temporary(path) for path in folder.iterdir()):
        raise InputError(f"{folder} is not an empty folder; choose another name")


def is_unfinished(folder: Path, work: str) -> bool:
    """Whether `work` was stopped while it filled the folder."""
    try:
        return read_bounded(folder / MARK, 1000) == work.encode()
    except InputError:
        return False


def finish(folder: Path) -> None:
    """Take the mark away: the folder is whole."""
    (folder / MARK).unlink(missing_ok=True)


def exchange(made: Path, folder: Path) -> None:
    """Put the folder `made` in the place of `folder`, which is there whole, the old or the new, at any time
    but for the moment between two renames; then the old one lies beside it and is put back by `recover`."""
    old = _old(folder)
    _discard(old)
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    _discard(old)


def recover(folder: Path) -> None:
    """Put the old folder back where an exchange was stopped between its two renames."""
    old = _old(folder)
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)
    else:
        _discard(old)


def beside(folder: Path) -> Path:
    """Where the successor of a folder is built."""
    return folder.with_name(f".{folder.name}.new")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _discard(old: Path) -> None:
    """Remove a folder, or a link to one: what it points to stays."""
    if old.is_symlink():
        old.unlink(missing_ok=True)
    else:
        shutil.rmtree(old, ignore_errors=True)


def _is_temporary(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".tmp"))
