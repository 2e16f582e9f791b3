"""Mutations of small real files: of their bytes, and of what they say."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import tomli_w

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 10**400, 1.5, 1e308, -0.0, "", "x", "../../escaped", "/tmp/escaped", "\x1b[2Jgone",
    "\u202egnp", "<script>alert(1)</script>", "a" * 100_000, "__import__('os').system('touch canary')", [], {}, [[]],
    [None], {"x": None}, [0] * 1000, "nan", "9" * 5000,
)  # fmt: skip


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to three small changes: flipped, cut, doubled, overwritten or inserted bytes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(max(len(changed), 1))
        part = slice(place, place + draw.choice((1, 2, 8, 64)))
        kind = draw.randrange(6)
        if kind == 0 and changed:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            changed[part] = changed[part] * 2
        elif kind == 3:
            changed[part] = bytes(len(changed[part]))
        elif kind == 4:
            changed[place:place] = draw.choice(
                (b"\xff" * 8, b"\x00", b"{", b"[" * 5000, b'"', b"\r\n", "é\u202e".encode())
            )
        else:
            del changed[part]
    return bytes(changed)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into nested tables and lists."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def of_value(value: Any, draw: random.Random, hostile: tuple[Any, ...] = HOSTILE) -> Any:
    """One to three entries replaced, left out or renamed."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        found = list(places(changed))
        if not found:
            return changed
        *path, last = draw.choice(found)
        owner = changed
        for key in path:
            owner = owner[key]
        kind = draw.randrange(6)
        if kind == 0:
            del owner[last]
        elif kind == 1 and isinstance(owner, dict):
            owner[draw.choice(("x", "", "\x1b", str(last) + "2"))] = owner.pop(last)
        elif kind == 2:
            owner[last] = nested(draw.choice((3, 50, 400)))
        else:
            owner[last] = draw.choice(hostile)
    return changed


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a changed value."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    value = of_value(json.loads(content), draw)
    return json.dumps(value, allow_nan=True).encode()


def of_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines of JSON: changed bytes, or a changed line."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    lines = content.decode().splitlines()
    number = draw.randrange(len(lines))
    lines[number] = json.dumps(of_value(json.loads(lines[number]), draw))
    return ("\n".join(lines) + "\n").encode()


def of_toml(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a changed value; what TOML cannot say becomes text."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    value = of_value(tomllib.loads(content.decode()), draw)
    try:
        return tomli_w.dumps(value).encode()
    except RecursionError:
        return b"x = " + b"[" * 400 + b"]" * 400
    except (TypeError, ValueError):
        return tomli_w.dumps(_without_null(value)).encode()


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_null(one) for one in value if one is not None]
    return value


Mutate = Callable[[bytes, random.Random], bytes]
