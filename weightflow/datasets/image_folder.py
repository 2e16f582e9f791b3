"""A folder (or zip archive) of images with one subfolder a class; train and test beside each other, or one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from canon.errors import InputError
from weightflow.data import decoded_cache
from weightflow.data.types import ClassificationData
from weightflow.datasets.images import ImageFile, ImageOptions, decode_parts, file_at, file_in, is_image

TESTS = ("test", "val")

# by part ("train" or "test"), then by class folder: something that makes an ImageFile of a label
Found = dict[str, dict[str, list[Callable[[int], ImageFile]]]]


def imagefolder(
    path: str, size: int | None = None, colour: bool = False, skip_corrupt: bool = False
) -> ClassificationData:
    """Images under PATH/train/CLASS and PATH/test/CLASS (or val), or PATH/CLASS, split by a fixed seed.

    A class is called what its folder is called, underscores as spaces.
    """
    source, options = Path(path).expanduser(), ImageOptions(size, colour, skip_corrupt)
    name = f"imagefolder:{path}"
    if source.suffix == ".zip" and source.is_file():
        files, found = [source], _in_archive(source)
    elif source.is_dir():
        found, files = _in_folder(source)
    else:
        raise InputError(f"data set '{name}': {source} is neither a folder nor a .zip archive")
    classes = sorted(found.get("train", {}))
    if not classes:
        raise InputError(
            f"data set '{name}': no images in {source}; they are expected in {source}/train/CLASS and "
            f"{source}/test/CLASS, or in {source}/CLASS"
        )
    for other in found.get("test", {}).keys() ^ set(classes) if "test" in found else ():
        where = "test" if other in found["test"] else "train"
        raise InputError(f"data set '{name}': class '{other}' is in {where} alone; it must be in both")
    images = {
        part: [make(label) for label, own in enumerate(classes) for make in by_class[own]]
        for part, by_class in found.items()
    }
    key = decoded_cache.identity("imagefolder", files, root=str(source.resolve()), **asdict(options))
    names = [own.replace("_", " ") for own in classes]
    folder = decoded_cache.decoded(key, lambda target: decode_parts(name, target, images, names, options))
    return decoded_cache.from_folder(name, folder, licence=f"that of the images in {source}")


def _in_folder(root: Path) -> tuple[Found, list[Path]]:
    parts = {"train": root}
    if (root / "train").is_dir():
        parts = {"train": root / "train"}
        tests = [root / test for test in TESTS if (root / test).is_dir()]
        if tests:
            parts["test"] = tests[0]
    found: Found = {}
    files = []
    for part, folder in parts.items():
        for path in sorted(p for own in folder.iterdir() if own.is_dir() for p in own.rglob("*")):
            if is_image(path.name) and path.is_file():
                files.append(path)
                own = path.relative_to(folder).parts[0]
                found.setdefault(part, {}).setdefault(own, []).append(partial(file_at, path))
    return found, files


def _in_archive(path: Path) -> Found:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises whatever it met: struct.error, NotImplementedError, ...
        raise InputError(f"{path} is not a zip archive: {error}") from None
    found: Found = {}
    members = [m for m in sorted(archive.namelist()) if is_image(m) and m.count("/") >= 1]
    splits = {Path(m).parts[-3] for m in members if len(Path(m).parts) >= 3}
    test = next((t for t in TESTS if t in splits), None) if "train" in splits else None
    for member in members:
        *_, above, own, _ = ("", *Path(member).parts)
        if "train" in splits and above not in ("train", test):
            continue
        part = "test" if test is not None and above == test else "train"
        found.setdefault(part, {}).setdefault(own, []).append(partial(file_in, archive, member))
    return found
