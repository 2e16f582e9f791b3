"""File locks between processes, released when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from canon.io.files import explain


@contextmanager
def holding(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`; gives False at once where another process holds it and not `wait`."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise explain(path, error) from error
    try:
        yield True
    finally:
        lock.release()
