"""Handling of Ctrl-C, SIGTERM and SIGHUP, and the message about what was kept.

Without `deferred`, a signal raises `KeyboardInterrupt` where the program stands. Work whose state is whole
only between two steps asks `deferred` instead: the first signal then sets a flag, a second one raises. Once the
result is written, `finishing` lets the command end as if there were none.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def _stopping_signals() -> tuple[signal.Signals, ...]:
    """Ctrl-C, SIGTERM, and SIGHUP (of a terminal that is closed) unless the parent, such as nohup, ignores it."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return (signal.SIGINT, signal.SIGTERM)
    return (signal.SIGINT, signal.SIGTERM, hangup)


_SIGNALS = _stopping_signals()


class Requests:
    """Records received signals; calling it returns whether the command was asked to stop."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.notes: list[str] = []
        self.deferring = 0
        self.finishing = False

    def __call__(self) -> bool:
        return bool(self.received)

    @property
    def exit_code(self) -> int:
        """128 and the number of the first signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.received[0] if self.received else signal.SIGINT)

    def _receive(self, number: int, frame: Any) -> None:
        if self.finishing:
            return
        self.received.append(number)
        if not self.deferring or len(self.received) > 1:
            raise KeyboardInterrupt
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        with suppress(OSError):  # after SIGHUP the terminal is gone
            print(f"stopping after this step{again}", file=sys.stderr, flush=True)


_OUTSIDE = Requests()
"""Where nothing receives signals; it never has any."""
_current = _OUTSIDE


@contextmanager
def receiving() -> Iterator[Requests]:
    """Within the block, Ctrl-C, SIGTERM and SIGHUP are recorded in the yielded `Requests` and raise
    `KeyboardInterrupt`.

    A block within another, as of one command that runs several, records them in both.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Requests()
        return
    outer, _current = _current, Requests()
    before = {number: signal.signal(number, _current._receive) for number in _SIGNALS}
    try:
        yield _current
    finally:
        if outer is not _OUTSIDE:
            outer.received += _current.received
        _current = outer
        for number, handler in before.items():
            signal.signal(number, handler)


def finishing() -> None:
    """From here on Ctrl-C, SIGTERM and SIGHUP do nothing: all that is left is to write or to print a finished result."""
    _current.finishing = True


def ignoring(ignored: bool) -> None:
    """Whether Ctrl-C, SIGTERM and SIGHUP do nothing outside of `receiving`, or end the process at once."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[Requests]:
    """Within the block, the first signal is only recorded in the yielded `Requests`.

    The work ends the block at the next point where its state is whole; then `KeyboardInterrupt` is raised.
    """
    requests = _current
    requests.deferring += 1
    try:
        yield requests
    finally:
        requests.deferring -= 1
    if requests():
        stop = KeyboardInterrupt()
        for note in requests.notes:
            stop.add_note(note)
        raise stop


@contextmanager
def on_interrupt(message: str) -> Iterator[None]:
    """Within the block, Ctrl-C, SIGTERM or SIGHUP ends the command with `message`: what is kept and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as stop:  # libraries may convert KeyboardInterrupt
        stop.add_note(message)
        raise


def message_of(stop: BaseException | None) -> str:
    """The line for an interrupt: the innermost message of `on_interrupt`."""
    notes: list[str] = []
    while stop is not None:
        notes += getattr(stop, "__notes__", [])
        stop = stop.__cause__ or stop.__context__
    return f"interrupted: {notes[0] if notes else 'nothing was written; run the same command again'}"
