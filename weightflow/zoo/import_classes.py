"""Classes of imported checkpoints, from a table beside them or from file names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from canon.errors import InputError
from canon.io.files import read_bounded
from canon.validation import Invalid, parse_json
from weightflow import datasets

FILE_NAMES = "file-names"
BESIDE = ("classes.csv", "classes.json")
LIMIT = 1 << 26
BETWEEN = re.compile(r"[-+,. _]+")
NO_CLASS = re.compile(r"(seed|run|net|network|model|epoch|step|v|vs|and|best|last|final)?\d*")
"""Parts of a file's name that say nothing of classes."""


def classes_of_files(
    files: Sequence[Path], folder: Path, source: str | None, dataset: str
) -> dict[Path, tuple[str, ...]] | None:
    """Classes of each file in logit order; None where nothing says them.

    `source` is a .csv or .json file, `file-names`, or None for `classes.csv` or `classes.json` in the folder.
    """
    if source == FILE_NAMES:
        names = datasets.load(dataset).class_names
        return {path: _from_name(path, names) for path in files}
    found = Path(source) if source else next((p for b in BESIDE if (p := folder / b).is_file()), None)
    if found is None:
        return None
    table = _json(found) if found.suffix == ".json" else _csv(found)
    if isinstance(table, list):
        return dict.fromkeys(files, tuple(table))
    called = Counter(path.name for path in files)
    return {path: _named(path, folder, table, found, called[path.name] == 1) for path in files}


def _from_name(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The classes in a file's name, in their order: `cat-dog-seed3.pt`, `sea_lion-fox.pt`."""
    stem = path.name.split(".")[0]
    parts = [part for part in BETWEEN.split(stem.lower()) if part]
    words = {tuple(p for p in BETWEEN.split(name.lower()) if p): name for name in names}
    longest, found, place = max(map(len, words)), list[str](), 0
    while place < len(parts):
        for length in range(longest, 0, -1):
            own = words.get(tuple(parts[place : place + length]))
            if own is not None:
                found.append(own)
                place += length
                break
        else:
            if not NO_CLASS.fullmatch(parts[place]):
                raise InputError(
                    f"{path.name}: '{parts[place]}' is not a class of the data set; names are read as cat-dog-seed3.pt"
                )
            place += 1
    if len(found) < 2:
        raise InputError(f"{path.name} names {len(found)} classes of the data set; a network has two or more")
    return tuple(found)


def _named(
    path: Path, folder: Path, table: Mapping[str, Sequence[str]], source: Path, alone: bool
) -> tuple[str, ...]:
    """A file's line: by its place in the folder, by its folder, and where it is `alone` with its name, by that."""
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    names = (path.name, path.name.split(".")[0]) if alone else ()
    for key in (inside, inside.split(".")[0], *names, path.parent.name):
        if key in table:
            return tuple(table[key])
    raise InputError(f"{source} has no line for {inside}; add one: {inside},class,class")


def _json(path: Path) -> list[str] | dict[str, list[str]]:
    try:
        found = parse_json(read_bounded(path, LIMIT))
    except Invalid as error:
        raise InputError(f"{path} is not a JSON file: {error}") from None
    listed = found.values() if isinstance(found, dict) else [found]
    for own in listed:
        if not isinstance(own, list) or len(own) < 2 or not all(isinstance(name, str) for name in own):
            raise InputError(f'{path}: expected {{"file": ["class", "class"]}} or one list for all files')
    return found


def _csv(path: Path) -> dict[str, list[str]]:
    try:
        lines = list(
            csv.reader(read_bounded(path, LIMIT).decode("utf-8-sig").splitlines(), skipinitialspace=True)
        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None
    table: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        file, *names = [part.strip() for part in line] or [""]
        names = [name for name in names if name]
        if number == 1 and file.lower() in ("file", "name", "id"):
            continue
        if not file and not names:
            continue
        if not file or len(names) < 2:
            raise InputError(f"{path}, line {number}: expected file,class,class with two classes or more")
        table[file] = names
    return table
