"""Exit codes, one-line errors, progress, and standard output kept for results."""

import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
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
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "error: out of memory"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero (unexpected; --debug"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, text):
    assert console.run_cli(raising(error), ["go"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "go"], ["go", "--debug"]])
def test_debug_shows_the_traceback(capsys, arguments):
    assert console.run_cli(raising(InputError("bad")), arguments) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing"], "error: No such command 'nothing'; `it --help` shows what there is"),
        (["go", "--count", "x"], "error: Invalid value for '--count'"),
        (["go", "--wrong"], "error: No such option"),
    ],
)
def test_a_wrong_command_is_two_and_one_line(capsys, arguments, text):
    assert console.run_cli(command(lambda: None), arguments, name="it") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1


def test_no_command_is_answered_with_help(capsys):
    assert console.run_cli(command(lambda: None), [], name="it") == 2
    captured = capsys.readouterr()
    assert "An example." in captured.out + captured.err


def test_lines_of_help_break_where_the_terminal_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    app = console.application("An example.", "1.0")

    @app.command()
    def go() -> None:
        """Do it.

        Words that a source file of one hundred columns breaks here, and that must not be broken again
        at its end.

          go --out c.pt
        """

    @app.command()
    def other() -> None: ...

    assert console.run_cli(app, ["go", "--help"]) == 0
    said = capsys.readouterr().out
    paragraph = said[said.index("Words") :].partition("go --out c.pt")[0].split("\n")
    assert len([line for line in paragraph if line.strip()]) == 2


def test_a_command_may_choose_its_code():
    assert console.run_cli(raising(typer.Exit(3)), ["go"]) == 3


def test_done_is_zero():
    assert console.run_cli(command(lambda: None), ["go"]) == 0


def test_a_long_error_is_cut_after_it_is_escaped(capsys):
    assert console.run_cli(raising(InputError("\0" * 100_000)), ["go"]) == 2
    assert len(capsys.readouterr().err) < console.LONGEST + 20


def test_an_interrupt_says_how_to_go_on(capsys):
    def act():
        with console.on_interrupt("3 shards are kept; run the same command again"):
            raise KeyboardInterrupt

    assert console.run_cli(command(act), ["go"]) == 130
    assert capsys.readouterr().err == "interrupted: 3 shards are kept; run the same command again\n"


def test_an_interrupt_without_a_word(capsys):
    assert console.run_cli(raising(KeyboardInterrupt()), ["go"]) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_an_interrupt_that_a_library_turned_into_an_error(capsys):
    def act():
        with console.on_interrupt("3 shards are kept"):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise InputError("cannot follow the network") from None

    before = signal.getsignal(signal.SIGINT)
    assert console.run_cli(command(act), ["go"]) == 130
    assert capsys.readouterr().err == "interrupted: 3 shards are kept\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_run_exits_with_the_code(monkeypatch):
    monkeypatch.setattr(console, "ignoring", lambda ignored: None)  # of the whole process
    with pytest.raises(SystemExit) as stop:
        console.run(raising(WorkError("x")), ["go"])
    assert stop.value.code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_after_the_result_change_nothing(number):
    code = f"""
import atexit, signal
from canon.cli import console
app = console.application('x', '1')
@app.command()
def go():
    console.show({{}}, 'the result', False)
    signal.raise_signal({number:d})
atexit.register(lambda: signal.raise_signal({number:d}))
console.run(app, ['go'], name='canon')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the result\n", "")


def test_a_hangup_is_an_interrupt(capsys):
    assert console.run_cli(command(lambda: signal.raise_signal(signal.SIGHUP)), ["go"]) == 129
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_an_ignored_hangup_stays_ignored():
    """As of a command that nohup starts."""
    code = """
import signal
from canon.cli import console
app = console.application('x', '1')
@app.command()
def go():
    signal.raise_signal(signal.SIGHUP)
    console.show({}, 'the result', False)
console.run(app, ['go'], name='canon')
"""
    done = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the result\n")


def test_a_closed_terminal_ends_a_command_as_an_interrupt():
    """Its lines go nowhere then, and the exit code stays that of the signal."""
    code = """
import os, signal, time
from canon.cli import console
app = console.application('x', '1')
@app.command()
def go():
    with console.progress(10, 'working'), console.deferred() as stop:
        os.write(1, b'ready\\n')
        while not stop():
            time.sleep(0.01)
        console.say('saved')
console.run(app, ['go'], name='canon')
"""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    assert process.stdout.readline() == "ready\n"
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 129


def test_a_finished_step_of_a_command_does_not_end_its_interrupts(capsys):
    def steps():
        with console.receiving():
            console.show({}, "the first step", False)
            signal.raise_signal(signal.SIGTERM)
        with console.receiving():
            signal.raise_signal(signal.SIGTERM)

    assert console.run_cli(command(steps), ["go"]) == 143
    assert capsys.readouterr() == (
        "the first step\n",
        "interrupted: nothing was written; run the same command again\n",
    )


def test_an_interrupted_command_leaves_nothing_to_the_next_one_of_the_process(capsys):
    assert console.run_cli(command(lambda: signal.raise_signal(signal.SIGINT)), ["go"]) == 130
    with console.deferred() as stop:
        assert not stop()
    assert console.run_cli(command(lambda: None), ["go"]) == 0


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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_break_at_spaces_and_commands_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "a sentence of several words that is longer than the line\nnow: weightflow train zoos/a --out runs/a --resume"
    first, last = console.wrapped(text, True).rsplit("\n", 1)
    assert all(len(line) <= 30 for line in first.split("\n"))
    assert first.replace("\n", " ") == text.split("\n")[0]
    assert last == text.split("\n")[1]
    assert console.wrapped(text, False) == text


def test_a_note_crushes_no_bar_and_stays(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(12, "training") as steps:
        steps.advance(4, "held-out 2.155 (weights 1.111, behaviour 1.044)")
        steps.advance(1)
        steps.bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    line = [part for part in re.split(r"[\r\n]", plain) if "5/12" in part][-1]
    assert len(line.rstrip()) <= 80
    assert "held-out 2.155" in line
    assert line.count("━") + line.count("╸") + line.count("╺") >= 15
    assert "…:" not in line


def test_an_ascii_terminal_and_a_missing_package_are_no_exceptions():
    code = "import typer; from canon.cli import console\napp = console.application('x', '1')\n" \
           "@app.command()\ndef go(): print('1 ± 2')\nconsole.run(app, ['go'], name='canon')"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"1 ? 2"), done.stderr
    code, text = console.explain(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert (code, text) == (1, "the package torch is not installed; install it: pip install torch")


def test_memory_that_torch_cannot_allocate_is_said_in_one_line(capsys):
    assert console.run_cli(command(lambda: torch.empty(2**50, dtype=torch.uint8)), ["go"]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory; ")


def test_a_total_that_is_known_later_gives_the_time_left(monkeypatch, capsys):
    with console.progress(None, "report", every=0.0) as steps:
        steps.advance(0, "zoo (1 of 2)")
        steps.expect(4)
        steps.advance(1)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("report: 0, ")
    assert last.startswith("report: 1/4, ")
    assert last.endswith("s left")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(None, "report") as steps:
        steps.expect(4)
        steps.advance(1, "split unseen combinations (2 of 13)")
        steps.bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    line = [part for part in re.split(r"[\r\n]", plain) if "1/4" in part][-1]
    assert len(line.rstrip()) <= 80
    assert re.search(r"split unsee.* *$", line)
