"""Atomic file writes.

Everything is written to a temporary name in the same folder, flushed to the disk and renamed, so that
an interrupted or failed write leaves the old file, or none, and no rubbish.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from canon.errors import InputError, WorkError
from canon.validation import shown

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20]  # the folder may be shared by machines
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a write that found no space; of a copy, Python names the file that is read."""


@contextmanager
def atomic_open(path: str | os.PathLike[str], *, follow: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary binary file that is renamed to `path` if the block succeeds, and removed if it fails.

    A symbolic link at `path` is replaced, since a folder from elsewhere may hold links to anything; with
    `follow`, for a path that a person typed, the file that it points to is.
    Raises `InputError` where the folder cannot be written, `WorkError` where the disk is full.
    """
    target = Path(os.path.realpath(path) if follow else path)
    if target.is_dir():
        raise InputError(f"{path} is a directory; name a file in it")
    temporary = temporary_name(target)
    try:
        remove_left_behind(target)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise explain(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_left_behind(target: Path) -> None:
    """Remove temporary files and folders for `target` whose writers, processes of this machine, are gone."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*@{_HOST}.tmp"):
        writer = path.name.removesuffix(f"@{_HOST}.tmp").rpartition(".")[2]
        if writer.isdecimal() and int(writer) != os.getpid() and not _is_alive(int(writer)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's process, or a system that does not say
    return True


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(target: Path, unique: str = "") -> Path:
    """The temporary name for `target`: hidden, in the same folder, `unique` per thread."""
    return target.with_name(f".{target.name}.{unique}{os.getpid()}@{_HOST}.tmp")


def explain(path: str | os.PathLike[str], error: OSError) -> Exception:
    """The exception for a failed write of `path`: `WorkError` if the disk is full, else `InputError`."""
    if error.errno in FULL:
        return WorkError(f"{path} was not written: {error.strerror}; free some space and run again")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} cannot be written: its folder does not exist; create it first")
    return InputError(f"{path} cannot be written: {error.strerror or error}")


def atomic_write(path: str | os.PathLike[str], content: bytes | str, *, follow: bool = False) -> None:
    """Write `content` (text as UTF-8) to `path`, all of it or nothing; errors and links as `atomic_open`."""
    with atomic_open(path, follow=follow) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal; memory stays bounded. `InputError` as `require_file`."""
    require_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: str | os.PathLike[str]) -> int:
    """The size of `path` in bytes; `InputError` unless it is an ordinary file with something in it.

    Devices and pipes are refused: what a folder from elsewhere points to may never end.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory, not a file; name one file in it")
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            with open(path, "rb"):
                pass
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a device or a pipe; name an ordinary file")
    if found.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); save or download it again")
    return found.st_size


@contextmanager
def reading(path: str | os.PathLike[str], cure: str) -> Iterator[None]:
    """Within the block, content of `path` that cannot be used becomes `InputError` with the `cure`.

    For content whose form was checked and whose sense is found out by using it: weights of another model, numbers of
    another size, names that do not belong together.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        first = (str(error) or "no reason given").strip().splitlines()[0]
        raise InputError(f"{path} is damaged ({type(error).__name__}: {shown(first, 200)}); {cure}") from None


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file of at most `limit` bytes, perhaps none.

    Pipes that a shell hands over (`/dev/stdin`, `/dev/fd/63`) are read too. Raises `InputError` where the file is
    not there, is larger, or is not an ordinary file.
    """
    try:
        found = os.stat(path)
        mode = found.st_mode
        handed_over = os.fspath(path).startswith(("/dev/fd/", "/dev/stdin")) and stat.S_ISFIFO(mode)
        if not (stat.S_ISREG(mode) or handed_over):
            kind = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise InputError(f"{path} is {kind}; name an ordinary file")
        if found.st_size <= limit:
            with open(path, "rb") as file:
                content = file.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if found.st_size > limit or len(content) > limit:
        raise InputError(f"{path} has more than {limit} bytes; that is the limit")
    return content


def require_folder(path: str | os.PathLike[str]) -> None:
    """`InputError` unless a file can be written at `path`; checked before the work starts."""
    folder = Path(os.path.realpath(path)).parent
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; name a file in it")
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: its folder does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: its folder is read-only")
