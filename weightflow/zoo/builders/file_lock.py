"""Locks between processes on one machine or one shared file system: let go of when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; there, one builder at a time
    fcntl = None  # type: ignore[assignment]


@contextmanager
def holding(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`; gives False at once where another process holds it and not `wait`.

    The file stays, empty: deleting it would let two processes hold two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        if fcntl is None:
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True  # closing the file lets go
