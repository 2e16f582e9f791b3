"""Descriptions of classes: class to words, from a file or a recipe's table.

Folders and label files often have names that no text encoder knows (`n02123045`, `DGU 7`). An encoder that was told
what classes are reads the words wherever the class's name stands.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.files import read_bounded
from weightflow.registry import suggest
from weightflow.text.encoder import TextEncoder, mean_vector
from weightflow.text.null_encoder import NullEncoder

ClassWords = Mapping[str, tuple[str, ...]]
LIMIT = 1 << 24
HEADS = ("class", "name", "label")
"""What the first column of a file may be called in a line of its own."""


class DescribedEncoder(TextEncoder):
    """An encoder that reads a class's words, the mean of several, where it is asked for the class's name."""

    def __init__(self, inner: TextEncoder, words: ClassWords) -> None:
        self.inner, self.words = inner, dict(words)
        said = json.dumps(sorted((name, list(own)) for name, own in words.items()))
        self.identity = f"{inner.identity} described {hashlib.sha256(said.encode()).hexdigest()[:16]}"
        self.width, self.sees = inner.width, inner.sees

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        said = {one: self.words.get(one, (one,)) for one in descriptions}
        asked = list(dict.fromkeys(word for own in said.values() for word in own))
        found = dict(zip(asked, self.inner.encode(asked), strict=True))
        return torch.stack([mean_vector([found[word] for word in said[one]]) for one in descriptions])

    def image_vectors(self, files: Sequence[str]) -> Tensor:
        return self.inner.image_vectors(files)


def described(encoder: TextEncoder, words: ClassWords) -> TextEncoder:
    """The encoder with the words of classes; as it is where there are none, or where it reads no words."""
    return DescribedEncoder(encoder, words) if words and not isinstance(encoder, NullEncoder) else encoder


def names_of_words(words: ClassWords) -> dict[str, str]:
    """The class that each description is of, where it is of one alone."""
    said = Counter(word for own in words.values() for word in own)
    return {word: name for name, own in words.items() for word in own if said[word] == 1}


def read_class_words(path: Path) -> dict[str, tuple[str, ...]]:
    """A CSV file with one class a line: its name, and words for it, in one column or several.

    A first line `class,words` is a heading. `InputError` says which line is bad.
    """
    try:
        text = read_bounded(path, LIMIT).decode("utf-8-sig")
        lines = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if lines and lines[0] and lines[0][0].strip().lower() in HEADS:
        lines[0] = []
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        name, *words = [part.strip() for part in line] or [""]
        words = [word for word in words if word]
        if not name and not words:
            continue
        if not name or not words or name in found:
            wrong = "has this class again" if name in found else "needs a class and words for it"
            raise InputError(f"{path}, line {number}: '{','.join(line)[:100]}' {wrong}; write: class,words")
        found[name] = tuple(words)
    if not found:
        raise InputError(f"{path} describes no class; write one a line: class,words")
    return found


def class_words(table: Mapping[str, Any], classes: Sequence[str], dataset: str) -> dict[str, tuple[str, ...]]:
    """A recipe's or a file's table, checked: classes of the data set (folders' names count), words for each."""
    names = {own.replace("_", " "): own for own in reversed(classes)} | {own: own for own in classes}
    found: dict[str, tuple[str, ...]] = {}
    for name, words in table.items():
        own = names.get(name) or names.get(name.replace("_", " "))
        if own is None:
            raise InputError(
                f"descriptions: data set '{dataset}' has no class '{name}'; nearest: {suggest(name, classes)}"
            )
        said = (words,) if isinstance(words, str) else words
        if not isinstance(said, (list, tuple)) or not said:
            raise InputError(f"descriptions: '{name}' needs words or a list of words, found {said!r}")
        if not all(isinstance(word, str) and word.strip() for word in said):
            raise InputError(f"descriptions: '{name}' has an empty description, or one that is not text")
        found[own] = tuple(word.strip() for word in said)
    return found
