"""Folders in which data sets are searched for, in order.

1. the folder in the environment variable WEIGHTFLOW_DATA, where it is set
2. ./data
3. ~/.cache/weightflow/data, where downloads go (WEIGHTFLOW_CACHE moves ~/.cache/weightflow)
4. for some data sets, the places where Linux distributions put them

In each, a data set lies as torchvision or its publisher leaves it. Nothing is downloaded unasked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from canon.errors import InputError


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WEIGHTFLOW_CACHE") or Path(base) / "weightflow")


def roots() -> list[Path]:
    own = os.environ.get("WEIGHTFLOW_DATA")
    return [*([Path(own)] if own else []), Path("data"), cache_folder() / "data"]


def find(name: str, folders: Sequence[str], needed: str, advice: str, more: Iterable[Path] = ()) -> Path:
    """The first folder that holds `needed` (a glob) among `folders` in every root, then `more`.

    Raises `InputError` that says where it looked and what to do.
    """
    looked = [root / folder for root in roots() for folder in folders] + list(more)
    for folder in looked:
        if folder.is_dir() and next(folder.glob(needed), None) is not None:
            return folder
    places = "\n".join(f"  {folder}/{needed}" for folder in looked)
    raise InputError(f"data set '{name}' is not on this computer; looked for\n{places}\n{advice}")


def how_to_get(name: str) -> str:
    return (
        f"fetch it with `weightflow zoo build ... --download` or `weightflow backbone train {name} --download` (needs torchvision), or set "
        f"WEIGHTFLOW_DATA to the folder that has '{name}'"
    )
