"""Several processes on this machine.

A worker unpickles this module before anything else. It must not import torch, which takes seconds: until a worker
watches its owner, it outlives one that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from canon.errors import WorkError
from weightflow.executors.base import RETRIES, Item, RemoteExecutor, Result, Submit


class LocalProcesses(RemoteExecutor):
    """Worker processes beside this one. They end with it, however it ends."""

    @property
    def ahead(self) -> int:
        return 2 * self.workers

    @contextmanager
    def session(self, function: Callable[[Item], Result]) -> Iterator[Submit]:
        crew = _Crew(self.workers, self.device, function)
        try:
            yield crew.submit
        except BaseException:  # also of results that are not wanted any more
            crew.stop()
            raise
        crew.finish()


class _Crew:
    """A process pool that is replaced, and its unfinished items resubmitted, when a worker dies."""

    def __init__(self, workers: int, device: str, function: Callable[[Any], Any]) -> None:
        self.workers, self.device, self.function = workers, device, function
        self.unread: dict[int, tuple[Any, Future[Any]]] = {}
        self.submitted = self.lost = 0
        self._start()

    def _start(self) -> None:
        import torch

        # spawn: a forked copy of a process that has used torch's threads may hang
        context = multiprocessing.get_context("spawn")
        theirs, self._alive = context.Pipe(duplex=False)
        threads = max(1, torch.get_num_threads() // self.workers)
        self._pool = ProcessPoolExecutor(self.workers, context, _begin, (threads, theirs))
        self._theirs = theirs

    def submit(self, item: Any) -> Callable[[], Any]:
        number, self.submitted = self.submitted, self.submitted + 1
        self.unread[number] = item, self._future(item)
        return lambda: self._result(number)

    def _future(self, item: Any) -> Future[Any]:
        try:
            return self._pool.submit(_call, self.function, item, self.device)
        except BrokenProcessPool as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _result(self, number: int) -> Any:
        while True:
            try:
                result = self.unread[number][1].result()
                break
            except BrokenProcessPool:
                self._replace()
        del self.unread[number]
        self.lost = 0
        return result

    def _replace(self) -> None:
        self.lost += 1
        if self.lost > RETRIES:
            raise WorkError(
                f"worker processes died {self.lost} times in a row, perhaps for want of memory; use fewer workers"
            )
        self.stop()
        self._start()
        self.unread = {number: (item, self._future(item)) for number, (item, _) in self.unread.items()}

    def finish(self) -> None:
        self._pool.shutdown(wait=True)
        self._alive.close()
        self._theirs.close()

    def stop(self) -> None:
        """End the workers, whatever they compute."""
        self._alive.close()  # workers end when this connection closes
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._theirs.close()


def _begin(threads: int, alive: Connection) -> None:
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    # Ctrl-C, and SIGHUP of a terminal that is closed, reach all processes; the parent handles them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)


def _end_with(alive: Connection) -> None:
    """End this process when the other end is closed: by its owner, or because its owner is gone."""
    wait([alive])
    os._exit(1)


def _call(function: Callable[[Item], Result], item: Item, device: str) -> Result:
    from weightflow.device import computing_on

    with computing_on(device):
        return function(item)
