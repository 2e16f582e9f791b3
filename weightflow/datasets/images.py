"""Decode image files into one byte array; invalid files are named and counted, never silently dropped."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from canon.errors import InputError
from canon.io.files import require_file
from canon.validation import shown
from weightflow.data import decoded_cache
from weightflow.data.partition import content_key
from weightflow.data.pictures import UNREADABLE, eight_bits, is_grey, upright
from weightflow.folders import IMAGES

# a small file can claim to be a huge image: sizes are looked at before anything is decoded
LARGEST_FILE, LARGEST_IMAGE = 2**26, 2**26  # bytes, pixels


@dataclass(frozen=True)
class ImageFile:
    """An image that can be opened, in a folder or inside a zip archive. `path` is for people."""

    path: str
    label: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class ImageOptions:
    """`size`: resize to size x size (as they are otherwise). `colour`, `grey`: all images become so."""

    size: int | None = None
    colour: bool = False
    skip_corrupt: bool = False
    grey: bool = False


def file_at(path: Path, label: int) -> ImageFile:
    def opened() -> BinaryIO:
        require_file(path)
        return open(path, "rb")

    return ImageFile(str(path), label, opened)


def file_in(archive: zipfile.ZipFile, member: str, label: int) -> ImageFile:
    def unpacked() -> BytesIO:
        size = archive.getinfo(member).file_size
        if size > LARGEST_FILE:
            raise ValueError(f"unpacks to {size} bytes, more than the {LARGEST_FILE} that an image may have")
        return BytesIO(archive.read(member))

    return ImageFile(f"{archive.filename}:{member}", label, unpacked)


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGES


def decode_parts(
    name: str,
    folder: Path,
    parts: Mapping[str, Sequence[ImageFile]],
    class_names: Sequence[str],
    options: ImageOptions,
    remarks: Sequence[str] = (),
    keyed: bool = False,
) -> None:
    """Decode every part into `folder` as (images, channels, height, width) bytes, with labels and names.

    `keyed`: with the hashes of the files, by which splits are cut. `remarks` are kept with the data.
    Raises `InputError` that names and counts images which are corrupt (unless they are skipped), grey
    among colour, or of another size.
    """
    every = [file for files in parts.values() for file in files]
    probe = _Probe(name, options, _mode(name, every, options))
    for part, files in parts.items():
        labels = np.array([f.label for f in files], dtype=np.int64)
        kept = np.zeros(len(files), dtype=bool)
        keys = np.zeros(len(files), dtype=np.uint64)
        pixels = None
        for row, file in enumerate(files):
            image = probe.read(file)
            if image is None:
                continue
            if pixels is None:
                # written straight to the disk: the decoded set may be larger than memory
                pixels = np.lib.format.open_memmap(
                    folder / f"{part}.npy", "w+", np.uint8, (len(files), *probe.shape)
                )
            pixels[row], kept[row], keys[row] = image, True, probe.key
        probe.complain()
        if pixels is None:
            raise InputError(f"data set '{name}': none of {len(files)} images for {part} can be read")
        if not kept.all():
            decoded_cache.write_part(folder, part, pixels[kept], labels[kept])
        pixels.flush()
        decoded_cache.write_labels(folder, part, labels[kept], keys[kept] if keyed else None)
    if probe.corrupt:
        remarks = [
            *remarks,
            f"{len(probe.corrupt)} of {len(every)} images are corrupt and were left out, the first is "
            f"{probe.corrupt[0]}",
        ]
    decoded_cache.write_names(folder, class_names, remarks)


def _mode(name: str, files: Sequence[ImageFile], options: ImageOptions) -> str:
    """RGB or L, as all images are; `InputError` where some are grey among colour and no option says what to do."""
    if options.colour and options.grey:
        raise InputError(f"data set '{name}': ?colour and ?grey exclude each other; leave one out")
    if options.colour or options.grey:
        return "RGB" if options.colour else "L"
    grey, colour = list[str](), list[str]()
    for file in files:
        try:
            with file.open() as opened, Image.open(opened) as image:  # the header alone
                (grey if is_grey(image) else colour).append(file.path)
        except UNREADABLE:
            continue
    if grey and colour:
        few, most, is_few = (
            (grey, colour, "grey") if len(grey) <= len(colour) else (colour, grey, "in colour")
        )
        raise InputError(
            f"data set '{name}': {len(few)} images are {is_few} and {len(most)} are not, the first is {few[0]}; "
            "add ?colour to make all of them colour, or ?grey"
        )
    return "L" if grey else "RGB"


class _Probe:
    """Reads images of one mode and remembers those that are not as the others."""

    def __init__(self, name: str, options: ImageOptions, mode: str) -> None:
        self.name, self.options, self.mode = name, options, mode
        self.shape: tuple[int, ...] = ()
        self.key = 0
        self.corrupt: list[str] = []
        self.other_size: list[str] = []

    def read(self, file: ImageFile) -> np.ndarray | None:
        """The pixels, and `key` of the file; None where it is not as the others."""
        try:
            with file.open() as opened:
                content = opened.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise ValueError(f"more than the {LARGEST_FILE} bytes that an image may have")
            with Image.open(BytesIO(content)) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {LARGEST_IMAGE}")
                image.load()
                picture = eight_bits(upright(image)).convert(self.mode)
        except UNREADABLE as error:
            known = not isinstance(error, UnidentifiedImageError)  # whose text is an address in memory
            self.corrupt.append(f"{file.path} ({shown(str(error), 200) if known else 'of no image format'})")
            return None
        self.key = content_key(content)
        if self.options.size is not None:
            picture = picture.resize((self.options.size,) * 2, Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.shape = self.shape or pixels.shape
        if pixels.shape != self.shape:
            self.other_size.append(f"{file.path} ({picture.width}x{picture.height})")
            return None
        return pixels

    def complain(self) -> None:
        problems = [
            (
                self.other_size,
                f"are not {self.shape[-1] if self.shape else 0}x{self.shape[-2] if self.shape else 0} pixels "
                "as the first is",
                "add ?size=64 (or another size) to resize them all",
            ),
        ]
        if not self.options.skip_corrupt:
            problems.append((self.corrupt, "are corrupt", "repair them or add ?skip_corrupt"))
        for found, what, remedy in problems:
            if found:
                raise InputError(
                    f"data set '{self.name}': {len(found)} images {what}, the first is {found[0]}; {remedy}"
                )
