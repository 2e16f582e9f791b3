"""Files that are either there whole or not there at all.

Everything is written to a temporary name in the same folder, flushed to the disk and renamed, so that
an interrupted or failed write leaves the old file, or none, and no rubbish.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from canon.errors import InputError, WorkError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not.

    Raises `InputError` where the folder cannot be written, `WorkError` where the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing where it did
    if target.is_dir():
        raise InputError(f"{path} is a directory; name a file in it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(path: str | os.PathLike[str], error: OSError) -> Exception:
    if error.errno in _FULL:
        return WorkError(f"{path} was not written: {error.strerror}; free some space and run again")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} cannot be written: its folder does not exist; create it first")
    return InputError(f"{path} cannot be written: {error.strerror or error}")


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, all of it or nothing; errors as `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal; memory stays bounded."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: str | os.PathLike[str]) -> int:
    """The size of `path` in bytes; `InputError` unless it is a file with something in it."""
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory, not a checkpoint; name one file in it")
    try:
        size = os.stat(path).st_size
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes); save or download it again")
    return size


def require_folder(path: str | os.PathLike[str]) -> None:
    """`InputError` unless a file could be written at `path`: found out before the work, not after it."""
    folder = Path(os.path.realpath(path)).parent
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; name a file in it")
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: its folder does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: its folder is read-only")
