"""A digest of a table of settings or figures, kept in the table itself, so that damage is noticed.

Files of others carry none and are read as they are. Tensor files have their own (`canon.io.safetensors`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from canon.errors import InputError

KEY = "sha256"


def digest_of(table: Mapping[str, Any]) -> str:
    """The SHA-256 of what a table says, whatever its order and its file's spacing."""
    content = {key: value for key, value in table.items() if key != KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def with_digest(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table and its own digest, under the key `sha256`."""
    return {**table, KEY: digest_of(table)}


def checked(path: str | os.PathLike[str], table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without its digest; `InputError` where it does not say what it said when it was written."""
    if KEY in table and table[KEY] != digest_of(table):
        raise InputError(
            f"{path} is damaged or was edited: it does not match its own digest; "
            f"restore it, or take its entry '{KEY}' out to use it as it reads"
        )
    return {key: value for key, value in table.items() if key != KEY}
