"""Names of the Hugging Face Hub, where the local cache holds the model: nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from canon.errors import InputError
from canon.io.folders import is_folder_name

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def cached(path: str | os.PathLike[str]) -> Path:
    """The folder of the model that `path` names, where it is not a file or folder; else `path` itself.

    Raises `InputError` where the name could be one of the Hub's and the cache does not hold it.
    """
    name = os.fspath(path)
    if os.path.lexists(name) or not is_folder_name(name) or not _NAME.fullmatch(name):
        return Path(name)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, cache_dir=constants.HF_HUB_CACHE, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise InputError(
            f"{name} does not exist, and the Hugging Face cache {constants.HF_HUB_CACHE} holds no model of that name; "
            f"check it, or run `hf download {name}` first"
        ) from None
