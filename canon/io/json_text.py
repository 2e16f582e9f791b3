"""Strict JSON output."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any


def json_text(result: Any) -> str:
    """JSON that every reader accepts: a number that is not finite becomes null."""
    return json.dumps(_plain(result), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
