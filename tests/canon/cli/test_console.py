"""Exit codes, one-line errors, progress, and standard output kept for results."""

import errno
import json
import math
import signal

import pytest
import typer

from canon.cli import console
from canon.errors import InputError, WorkError


def command(act):
    app = console.application("An example.", "1.0")

    @app.command()
    def go(count: int = 1) -> None:
        act()

    @app.command()
    def other() -> None: ...

    return app


def raising(error):
    def act():
        raise error

    return command(act)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("x.pt is empty"), 2, "error: x.pt is empty"),
        (WorkError("the loss is NaN"), 1, "error: the loss is NaN"),
        (InputError("two\nlines"), 2, "error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device; free"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 2, "error: x: No such file"),
        (OSError(errno.EIO, "Input/output error", "x"), 1, "error: x: Input/output error"),
        (MemoryError(), 1, "error: out of memory"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero (unexpected; --debug"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, text):
    assert console.guarded(raising(error), ["go"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "go"], ["go", "--debug"]])
def test_debug_shows_the_traceback(capsys, arguments):
    assert console.guarded(raising(InputError("bad")), arguments) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing"], "error: No such command 'nothing'; `it --help` shows what there is"),
        (["go", "--count", "x"], "error: Invalid value for '--count'"),
        (["go", "--wrong"], "error: No such option: --wrong"),
    ],
)
def test_a_wrong_command_is_two_and_one_line(capsys, arguments, text):
    assert console.guarded(command(lambda: None), arguments, name="it") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1


def test_no_command_is_answered_with_help(capsys):
    assert console.guarded(command(lambda: None), [], name="it") == 2
    captured = capsys.readouterr()
    assert "An example." in captured.out + captured.err


def test_a_command_may_choose_its_code():
    assert console.guarded(raising(typer.Exit(3)), ["go"]) == 3


def test_done_is_zero():
    assert console.guarded(command(lambda: None), ["go"]) == 0


def test_an_interrupt_says_how_to_go_on(capsys):
    def act():
        with console.on_interrupt("3 shards are kept; run the same command again"):
            raise KeyboardInterrupt

    assert console.guarded(command(act), ["go"]) == 130
    assert capsys.readouterr().err == "interrupted: 3 shards are kept; run the same command again\n"


def test_an_interrupt_without_a_word(capsys):
    assert console.guarded(raising(KeyboardInterrupt()), ["go"]) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_an_interrupt_that_a_library_turned_into_an_error(capsys):
    def act():
        with console.on_interrupt("3 shards are kept"):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise InputError("cannot follow the network") from None

    before = signal.getsignal(signal.SIGINT)
    assert console.guarded(command(act), ["go"]) == 130
    assert capsys.readouterr().err == "interrupted: 3 shards are kept\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_run_exits_with_the_code():
    with pytest.raises(SystemExit) as stop:
        console.run(raising(WorkError("x")), ["go"])
    assert stop.value.code == 1


def test_json_is_all_that_is_on_standard_output(capsys):
    console.say("talk")
    console.show({"a": math.nan, "b": [1.5, math.inf]}, "for people", as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": None, "b": [1.5, None]}
    assert captured.err == "talk\n"


def test_people_get_text(capsys):
    console.show({"a": 1}, "for [people]", as_json=False)
    assert capsys.readouterr().out == "for [people]\n"


def test_progress_in_a_log_is_plain_lines(capsys):
    with console.progress(4, "training", every=0.0) as steps:
        for step in range(4):
            steps.advance(note=f"loss {step}")
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("training: 4/4, ")
    assert captured.err.splitlines()[-1].endswith("0 s left  loss 3")
    assert captured.out == ""


def test_quiet_progress_and_short_work_say_nothing(capsys):
    with console.progress(4, "training", quiet=True, every=0.0) as steps:
        steps.advance(4)
    with console.progress(4, "training") as steps:
        steps.advance(4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", [2, None])
def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys, total):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with console.progress(total, "training") as steps:
        steps.advance(2, note="done")
    assert capsys.readouterr().out == ""
