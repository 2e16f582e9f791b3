"""Shared by both command lines: one-line errors, exit codes, progress, JSON output.

Exit codes: 0 done, 1 the work failed, 2 the command was wrong, 130 interrupted, 143 ended by SIGTERM, 129 by SIGHUP.
Results go to standard output, everything else to standard error. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column
from rich.text import Text
from typer.core import TyperGroup

from canon.cli.interrupts import deferred as deferred
from canon.cli.interrupts import finishing as finishing
from canon.cli.interrupts import ignoring, message_of
from canon.cli.interrupts import on_interrupt as on_interrupt
from canon.cli.interrupts import receiving as receiving
from canon.cli.large_pages import use_large_pages
from canon.errors import InputError, InputWarning, WorkError
from canon.io.json_text import json_parts
from canon.validation import many as many
from canon.validation import shown

# Defaults for the options of a command, as in `json: bool = console.JSON`.
JSON = typer.Option(False, "--json", help="Print JSON to stdout; logs go to stderr.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress.")
DEBUG = typer.Option(False, "--debug", help="Show the traceback of an error (at any position).")

LEAST_BAR, COUNTS = 16, 34
"""Characters of a bar on a terminal of 80 columns, and of spinner, counts, rate, time left and the spaces between."""
LONGEST = 2000
"""Characters of an error that are shown: a damaged file's content may be in it."""
_COMMAND = re.compile(r"\b(?:weightflow|canon|pip|apt-get|export) [a-z-]")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NAMED_WRONGLY = {errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL}


def application(help: str, version: str, cls: type[TyperGroup] | None = None) -> typer.Typer:
    """A command line with the options that all of ours have; `cls` may order its commands."""
    app = typer.Typer(
        cls=cls,
        help=help,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _options(debug: bool = DEBUG, version: bool = version_option(version)) -> None: ...

    return app


def version_option(version: str) -> Any:
    """The default of `--version`, which prints the version and ends the command."""

    def said(asked: bool) -> bool:
        if asked:
            print(version)
            raise typer.Exit
        return asked

    return typer.Option(False, "--version", help="Print the version.", callback=said, is_eager=True)


def run(app: typer.Typer, arguments: Sequence[str] | None = None, *, name: str | None = None) -> NoReturn:
    """Run a command line and exit the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in ASCII shows ? for what it lacks
    use_large_pages()
    ignoring(True)  # a finished command takes a moment to unload its libraries
    code = run_cli(app, sys.argv[1:] if arguments is None else arguments, name=name)
    if code:
        ignoring(False)
    sys.exit(code)


def run_cli(app: typer.Typer, arguments: Sequence[str], *, name: str | None = None) -> int:
    """Run a command line and return its exit code; an error becomes one line on standard error."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        with receiving() as requests, _warnings_said():
            _invoke(app, rest, name or Path(sys.argv[0]).name)
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt as stop:
        say(message_of(stop))
        return requests.exit_code
    except BrokenPipeError:
        # Broken pipe, as in `canon inspect a.pt | head`: silence the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if requests():  # a library raised its own exception on the interrupt
            say(message_of(error))
            return requests.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help, and was shown
            print(error, end="", file=sys.stderr)
            return 2
        if debug:
            Console(stderr=True).print_exception()
        code, text = explain(error)
        # what is kept of work that failed, and how to go on
        kept = getattr(error, "__notes__", [])[:1] if code == 1 else []
        say("; ".join([f"error: {text}", *kept]))
        return code
    return 0


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Within the block, an `InputWarning` is one line on standard error, once for each text."""
    told = set[str]()

    def show_one(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            others(message, category, *rest, **more)
        elif str(message) not in told:
            told.add(str(message))
            say(f"warning: {message}")

    with warnings.catch_warnings():
        others = warnings.showwarning
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = show_one
        yield


def _invoke(app: typer.Typer, arguments: Sequence[str], name: str) -> None:
    """As `command.main(standalone_mode=False)`, but keeps the notes of a KeyboardInterrupt."""
    command = _with_whole_lines(typer.main.get_command(app))
    if f"_{name.upper()}_COMPLETE" in os.environ:
        command.main(list(arguments), name)  # shell completion; ends the process
    with command.make_context(name, list(arguments)) as context:
        command.invoke(context)


def _with_whole_lines(command: Any) -> Any:
    """The command with the lines of each paragraph of its help joined: the terminal's width breaks them."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    for own in getattr(command, "commands", {}).values():
        _with_whole_lines(own)
    return command


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the one line for an exception."""
    if isinstance(error, InputError):
        return 2, _line(error)
    if isinstance(error, WorkError):
        return 1, _line(error)
    if hasattr(error, "format_message"):  # typer keeps the class of a wrong command to itself
        context = getattr(error, "ctx", None)
        where = "" if context is None else f"; `{context.command_path} --help` shows what there is"
        message = " ".join(error.format_message().replace("Value error, ", "").split())
        return 2, f"{message.rstrip('.')}{where}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return 1, f"the package {package} is not installed; install it: pip install {package}"
    if _is_out_of_memory(error):
        return 1, "out of memory; use a smaller batch, fewer workers or a larger machine"
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return 1, f"{error.strerror}; free some space and run again"
        usage = error.errno in _NAMED_WRONGLY or isinstance(
            error,
            (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
        )
        where = f"{error.filename}: " if error.filename else ""
        return (2 if usage else 1), f"{where}{error.strerror or _line(error)}"
    return 1, f"{type(error).__name__}: {_line(error)} (unexpected; --debug shows where)"


def _is_out_of_memory(error: Exception) -> bool:
    """Also PyTorch's: a class of its own on accelerators, a `RuntimeError` of its allocator on the processor."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _line(error: Exception) -> str:
    text = shown(" ".join(str(error)[: 10 * LONGEST].split()), LONGEST)
    # a character may take ten when it is escaped
    return (text if len(text) <= LONGEST + 1 else f"{text[:LONGEST]}…") or type(error).__name__


def say(text: str) -> None:
    """One line on standard error, or nothing where that is gone, as a terminal after SIGHUP: the work goes on."""
    try:
        print(wrapped(inert(text), sys.stderr.isatty()), file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # or the flush at exit fails


def wrapped(text: str, terminal: bool) -> str:
    """`text` with lines that break at spaces on a terminal; a line with a command to copy stays whole."""
    if not terminal:
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        line
        if len(line) <= width or _COMMAND.search(line)
        else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def inert(text: str) -> str:
    """`text` as a terminal may show it: control and bidirectional characters of names from files escaped."""
    return "\n".join(shown(line, len(line)) for line in text.split("\n"))


def show(result: Mapping[str, Any], text: RenderableType, as_json: bool) -> None:
    """The result of a command, on standard output: JSON for machines, `text` for people.

    The command is finished with it: signals that come later change nothing of what is printed.
    """
    finishing()
    if as_json:
        sys.stdout.writelines(json_parts(result))
        print(flush=True)
    else:
        width = None if sys.stdout.isatty() else 160  # files and pipes have no edge to wrap at
        text = wrapped(inert(text), sys.stdout.isatty()) if isinstance(text, str) else text
        InertConsole(width=width).print(text, soft_wrap=isinstance(text, str), highlight=False, markup=False)


class InertConsole(Console):
    """A console that shows control and bidirectional characters escaped, in tables and progress bars too.

    No text is read as markup. What rich adds itself (colours, moves of the cursor) stays.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(inert(segment.text), segment.style)


class Steps:
    """The object that `progress` yields: call `advance` after each step, with an optional note; `taken`
    counts the steps.
    """

    taken = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` (a loss, a file name) is shown after the bar."""
        self.taken += steps

    def expect(self, total: int) -> None:
        """Set the number of steps where it is known only after the work has begun."""


class _Lines(Steps):
    """A plain line every few seconds, for logs."""

    def __init__(self, total: int | None, description: str, every: float, done: int) -> None:
        self.total, self.description, self.every = total, description, every
        self.before, self.started = done, time.monotonic()
        self.said = self.started

    @property
    def done(self) -> int:
        return self.before + self.taken

    def advance(self, steps: int = 1, note: str = "") -> None:
        super().advance(steps, note)
        now = time.monotonic()
        last = self.done == self.total and self.said > self.started
        if note or last or now - self.said >= self.every:
            self.said = now
            say(self._text(now - self.started, note))

    def expect(self, total: int) -> None:
        self.total = total

    def _text(self, seconds: float, note: str) -> str:
        rate = (self.done - self.before) / max(seconds, 1e-9)
        left = (
            ""
            if self.total is None or self.done == self.before
            else f", {(self.total - self.done) / max(rate, 1e-9):.0f} s left"
        )
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.description}: {self.done}{of}, {rate:.3g}/s{left}{'  ' + note if note else ''}"


class _Bar(Steps):
    def __init__(self, bar: Progress, task: Any) -> None:
        self.bar, self.task, self.note = bar, task, ""

    def advance(self, steps: int = 1, note: str = "") -> None:
        super().advance(steps, note)
        # the last note (a loss) stays until there is another
        self.note = note or self.note
        self.bar.update(self.task, advance=steps, note=self.note)

    def expect(self, total: int) -> None:
        self.bar.update(self.task, total=total)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


@contextmanager
def progress(
    total: int | None, description: str, *, done: int = 0, quiet: bool = False, every: float = 5.0
) -> Iterator[Steps]:
    """Progress on standard error: a bar with rate and time left on a terminal, plain lines elsewhere.

    Without `total` the steps say it later, by `expect`. `done` steps were taken before, by a run that was stopped: they count, but not for the rate.
    """
    if quiet:
        yield Steps()
    elif not sys.stderr.isatty():
        yield _Lines(total, description, every, done)
    else:
        console = InertConsole(stderr=True)
        room = console.width - len(description) - LEAST_BAR - COUNTS
        # a note is cut where the terminal is narrow: neither the bar nor the numbers are
        note = Column(max_width=max(room, 1), no_wrap=True, overflow="ellipsis")
        with Progress(
            SpinnerColumn("line"),  # moves within a step that takes long
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=min(40, max(LEAST_BAR, console.width // 5))),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=note),
            console=console,
            transient=True,
        ) as bar:
            yield _Bar(bar, bar.add_task(description, total=total, completed=done, note=""))
