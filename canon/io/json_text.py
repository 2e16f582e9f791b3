"""Strict JSON output."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

INDENT = "  "


def json_text(result: Any) -> str:
    """JSON that every reader accepts: a number that is not finite becomes null."""
    return "".join(json_parts(result))


def json_parts(value: Any, margin: str = "\n") -> Iterator[str]:
    """The same text in parts, so that a long one need not be in memory; `margin` begins each line of the value."""
    inner = margin + INDENT
    if isinstance(value, Mapping):
        yield from _enclosed(
            ((f"{json.dumps(str(key))}: ", item) for key, item in value.items()), "{}", inner
        )
    elif isinstance(value, (list, tuple)):
        yield from _enclosed((("", item) for item in value), "[]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield "null"
    else:
        yield json.dumps(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _enclosed(items: Iterable[tuple[str, Any]], ends: str, inner: str) -> Iterator[str]:
    separator = ends[0]
    for label, item in items:
        yield f"{separator}{inner}{label}"
        yield from json_parts(item, inner)
        separator = ","
    yield ends if separator != "," else inner.removesuffix(INDENT) + ends[1]
