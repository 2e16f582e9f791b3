"""SHA-256 digests stored inside JSON and TOML tables, to detect damage.

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
    """The SHA-256 of a table's content, independent of key order and white space."""
    content = {key: value for key, value in table.items() if key != KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def with_digest(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table and its own digest, under the key `sha256`."""
    return {**table, KEY: digest_of(table)}


def checked(path: str | os.PathLike[str], table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without its digest; `InputError` where its content has changed since it was written."""
    if KEY in table and table[KEY] != digest_of(table):
        raise InputError(
            f"{path} is damaged or was edited: it does not match its own digest; "
            f"restore it, or take its entry '{KEY}' out to use it as it reads"
        )
    return {key: value for key, value in table.items() if key != KEY}
