"""A folder (or zip archive) of images with one subfolder a class; train and test beside each other, or one.

Folders around the whole, hidden folders and files, and what file systems leave (`__MACOSX`, `._name`) do not count.
Below a class, folders belong to it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from canon.errors import InputError
from weightflow.data import decoded_cache
from weightflow.data.types import ClassificationData
from weightflow.datasets.images import ImageFile, ImageOptions, decode_parts, file_at, file_in, is_image

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders of splits are called, in capitals or not."""
LEFT_BY_SYSTEMS = ("__macosx", "@eadir")


@dataclass(frozen=True)
class _Found:
    """An image by the names of the folders above it, below the root, and its own name."""

    place: tuple[str, ...]
    make: Callable[[int], ImageFile]


def imagefolder(
    path: str, size: int | None = None, colour: bool = False, skip_corrupt: bool = False, grey: bool = False
) -> ClassificationData:
    """Images under PATH/train/CLASS and PATH/test/CLASS (or val), or PATH/CLASS, split by their content.

    A class is called what its folder is called, underscores as spaces. With train, val and test, each is what it is
    called; with train and val alone, val is the test.
    """
    source, options = Path(path).expanduser(), ImageOptions(size, colour, skip_corrupt, grey)
    name = f"imagefolder:{path}"
    if source.suffix.lower() == ".zip" and source.is_file():
        files, found = [source], list(_in_archive(source))
    elif source.is_dir():
        files, found = [], []
        for own in _in_folder(source):
            found.append(_Found(own.relative_to(source).parts, partial(file_at, own)))
            files.append(own)
    else:
        raise InputError(f"data set '{name}': {source} is neither a folder nor a .zip archive")
    parts, loose = _in_parts(name, _unwrapped(found))
    classes = sorted({one.place[0] for one in parts.get("train", ())})
    if not classes:
        raise InputError(
            f"data set '{name}': no images in {source}; they are expected in {source}/train/CLASS and "
            f"{source}/test/CLASS, or in {source}/CLASS"
        )
    label = {own: index for index, own in enumerate(classes)}
    for part, images in parts.items():
        for other in sorted({one.place[0] for one in images} ^ set(classes)):
            where = "train" if other in label else part
            raise InputError(
                f"data set '{name}': class '{other}' is in {where} alone; it must be in {part} and train"
            )
    made = {part: [one.make(label[one.place[0]]) for one in own] for part, own in parts.items()}
    remarks = [f"{loose} images lie outside of the folders of classes and were left out"] if loose else []
    key = decoded_cache.identity("imagefolder", files, root=str(source.resolve()), **asdict(options))
    names = [own.replace("_", " ") for own in classes]

    def decode(target: Path) -> None:
        decode_parts(name, target, made, names, options, remarks, keyed=True)

    folder = decoded_cache.decoded(key, decode)
    return decoded_cache.from_folder(name, folder, licence=f"that of the images in {source.name}")


def _in_folder(root: Path) -> Iterator[Path]:
    """Images of a folder and those below it, in the order of their names; linked folders are entered once."""
    entered: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in entered:
            below.clear()
            continue
        entered.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(name for name in below if not _is_hidden(name))
        for name in sorted(names):
            path = Path(folder) / name
            if is_image(name) and not _is_hidden(name) and path.is_file():
                yield path


def _in_archive(path: Path) -> Iterator[_Found]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many classes: struct.error, NotImplementedError, ...
        raise InputError(f"{path} is not a zip archive: {error}") from None
    for member in sorted(archive.namelist()):
        place = tuple(part for part in member.split("/") if part not in ("", "."))
        if is_image(member) and not any(map(_is_hidden, place)):
            yield _Found(place, partial(file_in, archive, member))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def _unwrapped(found: Sequence[_Found]) -> list[_Found]:
    """Without the folders that hold all images, as archives have them: at least one folder, a class, stays."""
    while (
        found
        and len({one.place[0] for one in found}) == 1
        and all(len(one.place) > 2 for one in found)
        and found[0].place[0].lower() not in SPLITS
    ):
        found = [_Found(one.place[1:], one.make) for one in found]
    return list(found)


def _in_parts(name: str, found: Sequence[_Found]) -> tuple[dict[str, list[_Found]], int]:
    """Images by split, with their class first in their place, and how many lie in no class.

    A folder is a split by its name where it has folders; a class called `train` has images.
    """
    inside = [one for one in found if len(one.place) > 1]
    splits = {one.place[0]: SPLITS.get(one.place[0].lower()) for one in inside if len(one.place) > 2}
    named: dict[str, str] = {}
    for folder, split in splits.items():
        if split is not None and split in named:
            raise InputError(
                f"data set '{name}': {named[split]}/ and {folder}/ are both {split}; put them together"
            )
        if split is not None:
            named[split] = folder
    if "train" not in named:
        return {"train": inside} if inside else {}, len(found) - len(inside)
    kept = {folder: split for split, folder in named.items()}
    other = next((one for one in inside if one.place[0] not in kept), None)
    if other is not None:
        raise InputError(
            f"data set '{name}': {other.place[0]}/ lies beside {named['train']}/ and is neither of train, val, test; "
            "move it away"
        )
    if "test" not in named and "validation" in named:
        kept[named["validation"]] = "test"
    parts: dict[str, list[_Found]] = {}
    for one in inside:
        if len(one.place) > 2:
            parts.setdefault(str(kept[one.place[0]]), []).append(_Found(one.place[1:], one.make))
    return parts, len(found) - sum(map(len, parts.values()))
