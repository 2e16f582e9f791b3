"""Yelp reviews and their stars, in the files of Zhang et al. 2015 (arXiv:1509.01626) or in Yelp's own.

    yelp_review_full_csv/train.csv  test.csv         "5","The text of a review"
    yelp_academic_dataset_review.json                {"stars": 5.0, "text": "The text of a review", ...}

A word is a run of letters, figures and apostrophes in lower case. The `words` most frequent ones of the
training reviews have numbers from 2 on; 1 is any other word, 0 is none. A review is its first `length`.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from canon.errors import InputError
from canon.io.files import require_file
from canon.validation import shown
from weightflow.data import decoded_cache, locations
from weightflow.data.types import ClassificationData

STARS = ("one star", "two stars", "three stars", "four stars", "five stars")
PARTS = {"train": "train.csv", "test": "test.csv"}
JSON = "yelp_academic_dataset_review.json"
WORD = re.compile(r"[a-z0-9']+")
ADVICE = (
    "download it from its publisher (its licence forbids passing it on), unpack it, and set WEIGHTFLOW_DATA "
    "to the folder that it lies in"
)
LONGEST = 1 << 20
"""Characters of a line; reviews have at most 5,000."""
STARS_OF = {1.0: 0, 2.0: 1, 3.0: 2, 4.0: 3, 5.0: 4}
Review = tuple[int, str]


def yelp(words: int = 30_522, length: int = 128) -> ClassificationData:
    """Reviews as `length` numbers of words each; the classes are one to five stars."""
    folder = locations.find("yelp", ["yelp_review_full_csv", "yelp_dataset", "yelp"], "*", ADVICE)
    files = {part: folder / name for part, name in PARTS.items()}
    if not all(path.exists() for path in files.values()):
        files = {"train": folder / JSON}
        if not files["train"].exists():
            raise InputError(f"{folder} has neither {' and '.join(PARTS.values())} nor {JSON}; {ADVICE}")

    def decode(target: Path) -> None:
        numbers = vocabulary(_reviews(files["train"]), words)
        for part, path in files.items():
            labels, rows = [], []
            for label, text in _reviews(path):
                labels.append(label)
                rows.append(encode(text, numbers, length))
            if not rows:
                raise InputError(f"{path} holds no review; download it again")
            decoded_cache.write_part(target, part, np.stack(rows), np.array(labels))
        decoded_cache.write_names(target, STARS)

    key = decoded_cache.identity("yelp", files.values(), words=words, length=length)
    return decoded_cache.from_folder(
        "yelp", decoded_cache.decoded(key, decode), licence="Yelp Dataset Terms of Use", standardise=False
    )


def vocabulary(reviews: Iterator[Review], words: int) -> dict[str, int]:
    """The number of each of the most frequent words; equally frequent ones by the alphabet."""
    counts = Counter(word for _, text in reviews for word in WORD.findall(text.lower()))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: max(0, words - 2)], start=2)}


def encode(text: str, numbers: dict[str, int], length: int) -> np.ndarray:
    """The numbers of the first `length` words, zeros after the last."""
    row = np.zeros(length, dtype=np.int32)
    found = WORD.findall(text.lower())[:length]
    row[: len(found)] = [numbers.get(word, 1) for word in found]
    return row


def _reviews(path: Path) -> Iterator[Review]:
    """Label and text of each review; `InputError` names the one that is damaged."""
    read: Callable[[Iterable[str]], Iterable[Any]]
    read, parse = (csv.reader, _from_row) if path.suffix == ".csv" else (iter, _from_line)
    require_file(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for number, raw in enumerate(read(_lines(path, file)), start=1):
                try:
                    stars, text = parse(raw)
                    yield STARS_OF[float(stars)], text
                except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
                    raise InputError(
                        f"{path}: review {number} is damaged ({shown(repr(error), 200)}); 1 to 5 stars and a text are expected"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}; download it again") from None


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file, none of them longer than a review can be: one line may be the whole of a damaged file."""
    for number in itertools.count(1):
        line = file.readline(LONGEST + 1)
        if len(line) > LONGEST:
            raise InputError(f"{path}: line {number} is longer than {LONGEST} characters; download it again")
        if not line:
            return
        yield line


def _from_row(row: Any) -> tuple[str, str]:
    return row[0], row[1].replace("\\n", " ")  # as its publisher writes line breaks


def _from_line(line: Any) -> tuple[float, str]:
    found = json.loads(line)
    stars, text = found["stars"], found["text"]
    if not isinstance(text, str) or isinstance(stars, bool) or not isinstance(stars, int | float):
        raise TypeError(f"stars {stars!r}, text {text!r}")
    return stars, text
