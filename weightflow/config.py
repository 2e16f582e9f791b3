"""Configurations: one frozen dataclass per stage, read from TOML and written back with all defaults."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from canon.errors import InputError
from canon.io.files import atomic_write, read_bounded
from canon.validation import MAX_DEPTH, Invalid, check_depth, shown
from weightflow.registry import suggest

C = TypeVar("C")


MOST = 2**63
"""Whole numbers from here on are no settings: no library below takes them."""
LIMIT = 1 << 22  # bytes of a file of settings; ours have a few thousand


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; `InputError` where it is none, is too large or is nested too deep."""
    try:
        found = tomllib.loads(read_bounded(path, LIMIT).decode("utf-8"))
        check_depth(found)
        return found
    except (Invalid, RecursionError):
        raise InputError(f"{path} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and numbers of too many digits
        raise InputError(f"{path} is not TOML: {shown(str(error), 200)}") from None


def build(cls: type[C], data: Any, where: str = "") -> C:
    """A config dataclass from nested tables; an unknown key raises and names the nearest valid ones.

    `InputError` where `data`, which may come from a damaged file, is no table.
    """
    if not isinstance(data, Mapping):
        raise InputError(
            f"expected a table of settings{' in ' + where.rstrip('.') if where else ''}, found {shown(data)}"
        )
    kinds = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        if key not in kinds:
            inner = [path for path in _settings(cls) if path.rpartition(".")[2] == key]
            near = ", ".join(where + path for path in inner or suggest(key, kinds).split(", "))
            raise InputError(f"unknown setting '{where}{shown(key)}'; nearest: {near}")
        values[key] = _convert(kinds[key], value, f"{where}{key}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"setting '{where}{missing[0]}' is missing; it has no default")
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"settings{' of ' + where.rstrip('.') if where else ''}: {error}") from None


def _settings(cls: type) -> list[str]:
    """The dotted names of all settings of a config dataclass and of the tables in it."""
    names = []
    for key, kind in typing.get_type_hints(cls).items():
        tables = [own for own in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(own)]
        names += [
            key,
            *(f"{key}.{name}" for own in tables if isinstance(own, type) for name in _settings(own)),
        ]
    return names


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise InputError(f"setting '{where}' is a table of settings, found {_quoted(value)}")
        return build(kind, value, where + ".")
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"setting '{where}' is a list, found {_quoted(value)}")
        return tuple(_convert(typing.get_args(kind)[0], item, where) for item in value)
    if origin in (types.UnionType, typing.Union):
        return _convert_any(typing.get_args(kind), value, where)
    if isinstance(value, int) and abs(value) >= MOST:
        raise InputError(f"setting '{where}' is below 2^63 in size, found {_quoted(value)}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"setting '{where}' is a finite number, found {value}")
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise InputError(f"setting '{where}' is {kind.__name__}, found {_quoted(value)}")
    return value


def _quoted(value: Any) -> str:
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def _convert_any(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value` as the first of `kinds` that allows it; the last of them words the refusal."""
    if value is None and type(None) in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return _convert(kind, value, where)
        except InputError:
            continue
    return _convert(last, value, where)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain tables; settings that are None are left out, as TOML has no word for them."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def write(path: str | Path, config: Any) -> None:
    atomic_write(path, tomli_w.dumps(to_dict(config)))


def replace_nested(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `changes` laid over it, table by table; a change to None is not a change."""
    merged = dict(data)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            own = merged.get(key, {})
            if not isinstance(own, Mapping):
                raise InputError(f"setting '{shown(key)}' is {shown(own)}, which is not a table of settings")
            merged[key] = replace_nested(own, value)
        elif value is not None:
            merged[key] = value
    return merged


SMALL = "-small"


def by_name(folder: Path) -> dict[str, Path]:
    """The TOML files of a folder by name; one with a table `small` is also there as `NAME-small`."""
    paths = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return paths | {name + SMALL: path for name, path in paths.items() if "small" in read_toml(path)}


def at_size(tables: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """Settings without their table `small`, which holds what the small size changes."""
    plain = {key: value for key, value in tables.items() if key != "small"}
    return replace_nested(plain, tables.get("small", {})) if small else plain


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as nested tables; tables in it stay tables."""
    tables: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        own: dict[str, Any] = {last: nested(value) if isinstance(value, Mapping) else value}
        for part in reversed(path):
            own = {part: own}
        tables = replace_nested(tables, own)
    return tables


def dotted(assignments: list[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` as nested tables; values are read as TOML, and as text where they are not."""
    tables: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise InputError(f"'{assignment}' is not a setting; write name=value, for instance steps=500")
        *path, last = key.strip().split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(f"'{assignment}' sets a part of '{part}', which is set to {shown(table)}")
        table[last] = _value(text.strip())
    return tables


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
