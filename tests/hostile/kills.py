"""SIGKILL at any chosen file-system call of a command.

Run as a program, it is a server: for each line of JSON it runs one command in a fork of itself and answers with the
exit code. It never computes a gradient itself, since torch refuses gradients in forks of processes that did.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is a call that changes something in `folder`."""
    if event not in CALLS or not arguments or not isinstance(arguments[0], str | os.PathLike | bytes):
        return False
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
        return False
    path = os.path.abspath(os.fsdecode(arguments[0]))
    if event in ("os.remove", "os.rmdir", "os.mkdir") and os.path.lexists(path) == (event == "os.mkdir"):
        return False  # it fails, and changes nothing
    return path.startswith(folder)


class Server(AbstractContextManager["Server"]):
    """Runs commands in processes of their own; -9 where one was killed before its change number `call`.

    A command may begin with settings of its environment, as in a shell: `NAME=value program argument`. With the name of an error (EROFS, ENOSPC) as `call`, every change fails with it; with a number after it ("ENOSPC 3"), all
    from that change on.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.kills"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(
        self, command: Sequence[str], folder: Path, call: int | str | None = None, output: Path | None = None
    ) -> int:
        """The exit code of a command that writes into `folder`.

        With `output`, it runs in `folder` as `python -m` would, and all it prints goes into that file.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = [list(command), str(folder), call, output and str(output)]
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)  # closes the pipes and waits


def _child(command: Sequence[str], folder: str, call: int | str | None, output: str | None) -> None:
    """Run a command and end the process; die before the change number `call`, or fail at each with that error."""
    from canon.cli import console
    from canon.cli.main import app as canon_app
    from weightflow.cli.main import app as weightflow_app

    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if call is not None and changes(event, arguments, folder):
            seen += 1
            if isinstance(call, str):
                name, _, first = call.partition(" ")
                if seen > int(first or 0):
                    number = getattr(errno, name)
                    raise OSError(number, os.strerror(number), os.fsdecode(arguments[0]))
            elif seen > call:
                os.kill(os.getpid(), signal.SIGKILL)

    if output:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.chdir(folder)
        sys.path[0] = folder
    os.dup2(2, 1)  # standard output is the server's
    settings = list(itertools.takewhile(lambda word: re.match(r"[A-Z_]+=", word), command))
    os.environ.update(dict(word.split("=", 1) for word in settings))
    sys.addaudithook(hook)
    program, *arguments = command[len(settings) :]
    code = console.run_cli(canon_app if program == "canon" else weightflow_app, arguments, name=program)
    os._exit(code)


def serve() -> None:
    """Answer every line of standard input."""
    # forks need not import or load them again, which would take most of their time
    import torch._dynamo
    import torch._export.serde.serialize

    import weightflow.api.generation
    import weightflow.report
    import weightflow.zoo.builders.parallel  # noqa: F401
    from weightflow.datasets import load
    from weightflow.text import load_encoder
    from weightflow.training.config import TrainConfig

    load("digits")
    load_encoder(TrainConfig().encoder)
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 2),))

    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                _child(*json.loads(line))
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
