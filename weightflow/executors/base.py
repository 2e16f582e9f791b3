"""The executor interface: a map with results in the order of the items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from canon.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 5
"""A worker that dies is replaced and its item computed again; an item that fails so often ends the work."""

Submit = Callable[[Any], Callable[[], Any]]
"""Hand one item to a worker; what comes back waits for its result."""


class Executor(ABC):
    """Applies a function to many items.

    Args:
        workers: Items that are computed side by side.
        device: Where a worker computes; see `weightflow.device.usable_device`.
    """

    def __init__(self, workers: int = 1, device: str = "cpu") -> None:
        if workers < 1:
            raise InputError(f"--workers is {workers}; it must be at least 1")
        self.workers, self.device = workers, device

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
        """The result of each item, in order.

        The function and the items travel to the workers by pickle. Items are taken as workers come free, a few
        ahead of the results. Close the iterator to stop the workers.
        """


class InProcess(Executor):
    """Computes each item lazily, in this process."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
        yield from map(function, items)


class RemoteExecutor(Executor):
    """Hands items to workers that compute elsewhere, at most `ahead` before the first unread result."""

    @property
    @abstractmethod
    def ahead(self) -> int: ...

    @abstractmethod
    def session(self, function: Callable[[Item], Result]) -> AbstractContextManager[Submit]:
        """Workers that apply `function`; they end with the block."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
        with self.session(function) as submit:
            waiting = deque[Callable[[], Result]]()
            for item in items:
                waiting.append(submit(item))
                if len(waiting) >= self.ahead:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
