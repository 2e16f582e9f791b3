"""Shared by the commands: checks of output paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canon.io.examples import Data


def examples_of(path: Path | None, labels: bool = False) -> Data | None:
    from canon.io.examples import read_data

    return None if path is None else read_data(path, labels=labels)


def check_outputs(*paths: Path | None, inputs: Sequence[Path] = ()) -> None:
    """Fail before the work, not after it, and where a result would replace an input or lie within one."""
    from canon.io.files import require_folder
    from canon.io.folders import require_apart

    for path in paths:
        if path is not None:
            require_folder(path)
            require_apart(path, *inputs)


def write_text(path: Path, text: str) -> None:
    from canon.io.files import atomic_write

    atomic_write(path, text, follow=True)


def check_network_output(out: Path, source: Path, *others: Path) -> None:
    """Fail before the work where what is made of the network `source` could not be written, or would replace an input."""
    from canon.io.folders import require_apart, require_output

    require_output(out, source)
    require_apart(out, source, *others)
