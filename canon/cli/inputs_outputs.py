"""What the commands share: from what a person typed to what the library takes, and files written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from canon.io.checkpoint import Checkpoint
    from canon.io.examples import Data


def draws(seed: int = 0) -> torch.Generator:
    """What draws the inputs on which functions are compared."""
    import torch

    return torch.Generator().manual_seed(seed)


def examples_of(path: Path | None, labels: bool = False) -> Data | None:
    from canon.io.examples import read_data

    return None if path is None else read_data(path, labels=labels)


def check_outputs(*paths: Path | None) -> None:
    """Fail before the work, not after it."""
    from canon.io.files import require_folder

    for path in paths:
        if path is not None:
            require_folder(path)


def write(path: Path, found: Checkpoint) -> None:
    from canon.io import checkpoint

    checkpoint.write(path, found)


def write_text(path: Path, text: str) -> None:
    from canon.io.files import atomic_write

    atomic_write(path, text)
