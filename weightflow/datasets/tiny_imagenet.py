"""Tiny ImageNet in its published layout; its labelled validation images are the test images here."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from canon.errors import InputError
from canon.io.files import read_bounded
from canon.validation import shown
from weightflow.data import decoded_cache, locations
from weightflow.data.types import ClassificationData
from weightflow.datasets.images import ImageOptions, decode_parts, file_at, is_image

LIMIT = 1 << 24  # bytes of a list; the longest has 2.7 million
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def tinyimagenet(size: int | None = None, skip_corrupt: bool = False) -> ClassificationData:
    """110,000 colour images, 3x64x64, of 200 classes. The publisher keeps the labels of its own test set.

    The images that are grey are made colour.
    """
    advice = f"download {URL}, unpack it, and set WEIGHTFLOW_DATA to the folder that has tiny-imagenet-200"
    folder = locations.find("tinyimagenet", ["tiny-imagenet-200"], "wnids.txt", advice)
    wnids = _lines(folder / "wnids.txt")
    odd = [wnid for wnid in wnids if not _is_name(wnid)]
    if odd:
        raise InputError(
            f"{folder}/wnids.txt: {shown(odd[0])} is not the name of a folder of images; download it again"
        )
    label = {wnid: index for index, wnid in enumerate(wnids)}
    options = ImageOptions(size, colour=True, skip_corrupt=skip_corrupt)
    train = [
        file_at(path, label[wnid])
        for wnid in wnids
        for path in sorted((folder / "train" / wnid / "images").glob("*"))
        if is_image(path.name)
    ]
    rows = [line.split("\t") for line in _lines(folder / "val" / "val_annotations.txt")]
    strange = [row for row in rows if len(row) < 2 or row[1] not in label or not _is_name(row[0])]
    if strange:
        raise InputError(
            f"{folder}/val/val_annotations.txt: {len(strange)} lines name no class of wnids.txt, "
            f"or no picture beside it, the first is {shown(strange[0])}; download it again"
        )
    test = [file_at(folder / "val" / "images" / row[0], label[row[1]]) for row in rows]
    names = class_names(wnids, _lines(folder / "words.txt"))

    def decode(target: Path) -> None:
        decode_parts("tinyimagenet", target, {"train": train, "test": test}, names, options)

    paths = [Path(f.path) for f in train + test if Path(f.path).exists()]
    key = decoded_cache.identity("tinyimagenet", paths, **asdict(options))
    return decoded_cache.from_folder(
        "tinyimagenet",
        decoded_cache.decoded(key, decode),
        licence="that of ImageNet: for research, not commercial",
    )


def class_names(wnids: list[str], words: list[str]) -> list[str]:
    """The first word for each class; where two classes share it, all their words."""
    meanings = dict(line.split("\t", 1) for line in words if "\t" in line)
    unnamed = [wnid for wnid in wnids if wnid not in meanings]
    if unnamed:
        raise InputError(f"words.txt has no word for class {unnamed[0]}; download Tiny ImageNet again")
    first = [meanings[wnid].split(",")[0].strip() for wnid in wnids]
    count = Counter(first)
    return [
        own if count[own] == 1 else meanings[wnid].strip() for own, wnid in zip(first, wnids, strict=True)
    ]


def _is_name(text: str) -> bool:
    """Whether a text can be the name of a file in a given folder, and leads nowhere else."""
    return Path(text).name == text != ".." and text.isprintable() and len(text.encode()) <= 255


def _lines(path: Path) -> list[str]:
    try:
        text = read_bounded(path, LIMIT).decode("utf-8")
        return [line for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}; download Tiny ImageNet again") from None
