"""Validation of plain data (JSON, TOML) from files; errors name the path of the invalid value.

A check takes a value and returns the value to use, or raises `Invalid`. Checks are composed like the
data itself: `record({"size": integer(1, 10**9), "name": text(r"[a-z]+")})`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

Check = Callable[[Any], Any]

MAX_DEPTH = 100
"""Deepest nesting of JSON that is read; nothing that these packages write is deeper than 40."""


class Invalid(ValueError):
    """A value that its check refuses; `at` is the path to it, outermost first."""

    def __init__(self, reason: str, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at

    def within(self, key: str | int) -> Invalid:
        """The same refusal, seen from the container that holds the value under `key`."""
        return Invalid(self.reason, (key, *self.at))

    def __str__(self) -> str:
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{shown(key, 40)}" for key in self.at)
        return f"{path[1:] if path.startswith('.') else path}: {self.reason}" if path else self.reason


def many(count: int, noun: str) -> str:
    """A count with its noun, for a message."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown(value: Any, limit: int = 60) -> str:
    """`value` for a message: cut to `limit` characters, control and bidirectional characters escaped."""
    text = value if isinstance(value, str) else ascii(value) if not isinstance(value, int) else _number(value)
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def markdown(value: str, limit: int = 300) -> str:
    """`value` as Markdown that shows it and does nothing else: no markup, no tag, no second line."""
    text = shown(value, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|!])", r"\\\1", text)


def _number(value: int) -> str:
    return str(value) if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"


def parse_json(text: bytes | str, max_bytes: int = 1 << 28, *, finite: bool = True) -> Any:
    """JSON without duplicate keys, deep nesting or (unless `finite` is false) NaN and infinity; else `Invalid`."""
    if len(text) > max_bytes:
        raise Invalid(f"{len(text)} bytes of JSON; at most {max_bytes} are read")
    try:
        found = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant if finite else float
        )
    except Invalid:
        raise
    except RecursionError:
        raise Invalid(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # also text that is not UTF-8
        raise Invalid(f"not JSON ({shown(str(error), 100)})") from None
    check_depth(found)
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Invalid(f"the key {shown(twice)} occurs twice")
    return table


def _no_constant(name: str) -> Any:
    raise Invalid(f"{name} is not JSON")


def check_depth(found: Any) -> None:
    """`Invalid` where tables and lists are nested deeper than `MAX_DEPTH` levels."""
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Invalid(f"nested deeper than {MAX_DEPTH} levels")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = inner


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Invalid(f"expected true or false, found {shown(value)}")
    return value


def nothing(value: Any) -> None:
    """Null."""
    if value is not None:
        raise Invalid(f"expected null, found {shown(value)}")


def integer(low: int = -(2**63), high: int = 2**64 - 1) -> Check:
    """A whole number from `low` to `high`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Invalid(f"expected a whole number from {low} to {high}, found {shown(value)}")
        return value

    return check


def number(value: Any) -> float:
    """A finite number."""
    try:
        finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        finite = False
    if not finite:
        raise Invalid(f"expected a finite number, found {shown(value)}")
    return cast(float, value)


def positive(value: Any) -> float:
    """A finite number above zero."""
    if number(value) <= 0:
        raise Invalid(f"expected a number above 0, found {shown(value)}")
    return value


def text(pattern: str = r"[^\x00-\x1f\x7f]*", limit: int = 1000) -> Check:
    """Text of at most `limit` characters that matches `pattern` as a whole."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise Invalid(f"expected text, found {shown(value)}")
        if len(value) > limit:
            raise Invalid(f"text of {len(value)} characters; at most {limit} are read")
        if not compiled.fullmatch(value):
            raise Invalid(f"'{shown(value)}' is not allowed here")
        return value

    return check


def one_of(*values: Any) -> Check:
    """One of `values`."""

    def check(value: Any) -> Any:
        if not any(value == known and type(value) is type(known) for known in values):
            raise Invalid(f"expected one of {', '.join(map(str, values))}; found {shown(value)}")
        return value

    return check


def optional(inner: Check) -> Check:
    """Null, or what `inner` allows."""
    return lambda value: None if value is None else inner(value)


def either(*checks: Check) -> Check:
    """What any of `checks` allows; the last one words the refusal."""

    def check(value: Any) -> Any:
        for attempt in checks[:-1]:
            try:
                return attempt(value)
            except Invalid:
                continue
        return checks[-1](value)

    return check


def items(inner: Check, limit: int = 10_000_000) -> Check:
    """A list of at most `limit` values, each allowed by `inner`."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Invalid(f"expected a list, found {shown(value)}")
        if len(value) > limit:
            raise Invalid(f"a list of {len(value)}; at most {limit} are read")
        return [_within(n, inner, one) for n, one in enumerate(value)]

    return check


def table(key: Check, inner: Check) -> Check:
    """An object whose keys `key` allows and whose values `inner` allows."""

    def check(value: Any) -> dict[Any, Any]:
        return {_within(k, key, k): _within(k, inner, one) for k, one in _object(value).items()}

    return check


def record(required: Mapping[str, Check], defaulted: Mapping[str, Check] | None = None) -> Check:
    """An object with the fields of `required`, perhaps some of `defaulted`, and no other."""
    fields = {**required, **(defaulted or {})}

    def check(value: Any) -> dict[str, Any]:
        found = _object(value)
        for name in found:
            if name not in fields:
                raise Invalid(f"unknown field {shown(name)}; known are {', '.join(fields)}")
        for name in required:
            if name not in found:
                raise Invalid(f"the field {name} is missing")
        return {name: _within(name, fields[name], one) for name, one in found.items()}

    return check


def having(fields: Mapping[str, Check], perhaps: Mapping[str, Check] | None = None) -> Check:
    """An object with the fields of `fields`, perhaps those of `perhaps`, and any others, which are left out."""
    known = {**fields, **(perhaps or {})}

    def check(value: Any) -> dict[str, Any]:
        found = _object(value)
        for name in fields:
            if name not in found:
                raise Invalid(f"the field {name} is missing")
        return {name: _within(name, one, found[name]) for name, one in known.items() if name in found}

    return check


def union(kinds: Mapping[str, Check]) -> Check:
    """An object with one field, named for the kind of its value."""

    def check(value: Any) -> dict[str, Any]:
        found = _object(value)
        if len(found) != 1:
            raise Invalid(f"expected one field, found {len(found)}")
        kind, inner = next(iter(found.items()))
        if kind not in kinds:
            raise Invalid(f"'{shown(kind)}' is not allowed here")
        return {kind: _within(kind, kinds[kind], inner)}

    return check


def replaced_by(make: Callable[[], Any]) -> Check:
    """Anything; it is not used, and `make()` stands in its place."""
    return lambda value: make()


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"expected an object, found {shown(value)}")
    return value


def _within(key: str | int, inner: Check, value: Any) -> Any:
    try:
        return inner(value)
    except Invalid as error:
        raise error.within(key) from None
