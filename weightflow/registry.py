"""Names that people type: what is nearest to a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from canon.errors import InputError

T = TypeVar("T")


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The nearest known names by spelling, or all of them where few are known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.4)
    return ", ".join(near or names[:10])


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`, or an `InputError` that lists what there is."""
    if name not in table:
        raise InputError(f"no {kind} is called '{name}'; there are: {', '.join(sorted(table))}")
    return table[name]
