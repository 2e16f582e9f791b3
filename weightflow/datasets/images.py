"""Image files to one array of bytes: bad ones are named and counted, never dropped unasked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from canon.errors import InputError
from weightflow.data import decoded_cache

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}

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
    """`size`: resize to size x size (as they are otherwise). `colour`: grey images become colour."""

    size: int | None = None
    colour: bool = False
    skip_corrupt: bool = False


def file_at(path: Path, label: int) -> ImageFile:
    return ImageFile(str(path), label, lambda: open(path, "rb"))


def file_in(archive: zipfile.ZipFile, member: str, label: int) -> ImageFile:
    def unpacked() -> BytesIO:
        size = archive.getinfo(member).file_size
        if size > LARGEST_FILE:
            raise ValueError(f"unpacks to {size} bytes, more than the {LARGEST_FILE} that an image may have")
        return BytesIO(archive.read(member))

    return ImageFile(f"{archive.filename}:{member}", label, unpacked)


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def decode_parts(
    name: str,
    folder: Path,
    parts: Mapping[str, Sequence[ImageFile]],
    class_names: Sequence[str],
    options: ImageOptions,
) -> None:
    """Decode every part into `folder` as (images, channels, height, width) bytes, with labels and names.

    Raises `InputError` that names and counts images which are corrupt (unless they are skipped), grey
    among colour, or of another size.
    """
    probe = _Probe(name, options)
    for part, files in parts.items():
        labels = np.array([f.label for f in files], dtype=np.int64)
        kept = np.zeros(len(files), dtype=bool)
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
            pixels[row], kept[row] = image, True
        probe.complain()
        if pixels is None:
            raise InputError(f"data set '{name}': none of {len(files)} images for {part} can be read")
        if not kept.all():
            decoded_cache.write_part(folder, part, pixels[kept], labels[kept])
        else:
            pixels.flush()
            np.save(folder / f"{part}_labels.npy", labels)
    decoded_cache.write_names(folder, class_names)


class _Probe:
    """Reads images of one kind and remembers those that are not of it."""

    def __init__(self, name: str, options: ImageOptions) -> None:
        self.name, self.options = name, options
        self.mode = "RGB" if options.colour else ""
        self.shape: tuple[int, ...] = ()
        self.corrupt: list[str] = []
        self.grey: list[str] = []
        self.other_size: list[str] = []

    def read(self, file: ImageFile) -> np.ndarray | None:
        from PIL import Image

        try:
            with file.open() as opened, Image.open(opened) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {LARGEST_IMAGE}")
                image.load()
                grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
                self.mode = self.mode or ("L" if grey else "RGB")
                if grey and self.mode == "RGB" and not self.options.colour:
                    self.grey.append(file.path)
                    return None
                picture = image.convert(self.mode)
        except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            self.corrupt.append(f"{file.path} ({error})")
            return None
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
            (self.grey, "are grey where the first is in colour", "add ?colour to make them colour"),
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
