"""Folders on the Hugging Face hub, named `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION` where a folder is expected."""

from __future__ import annotations

import os
import re
from pathlib import Path

from canon.errors import InputError, WorkError

NAME = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
"""One slash too: a path drops the second."""


def local_folder(path: str | os.PathLike[str], kind: str) -> Path:
    """A folder as it is, or that of the hub's `kind` ("model", "dataset"), downloaded once and kept in its cache.

    `InputError` where a name is none, `WorkError` where the hub has no such folder or cannot be reached.
    """
    text = os.fspath(path)
    if not text.startswith("hf:"):
        return Path(text)
    found = NAME.fullmatch(text)
    if found is None:
        raise InputError(
            f"'{text}' is not a name on the hub; write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(found[1], repo_type=kind, revision=found[2]))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors
        raise WorkError(f"{text} cannot be downloaded: {str(error).strip().splitlines()[0]}") from error


def any_folder(path: str | os.PathLike[str]) -> Path:
    """A folder as it is, or the generator or else the zoo of that name on the hub."""
    try:
        return local_folder(path, "model")
    except WorkError:
        return local_folder(path, "dataset")
