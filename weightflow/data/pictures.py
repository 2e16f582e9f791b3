"""Read a single picture, converted to the size and mode that networks take."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from canon.errors import InputError
from canon.io.files import require_file
from canon.validation import shown

LARGEST = 2**26
"""Pixels: a small file can claim to be a huge image."""
UNREADABLE = (
    ArithmeticError,
    EOFError,
    Image.DecompressionBombError,
    InputError,
    LookupError,
    OSError,
    RuntimeError,  # an encrypted member, an unknown method of compression
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What opening and decoding an image may raise: decoders of formats raise whatever they met."""


@dataclass(frozen=True)
class Picture:
    """`pixels` are bytes; `converted` names what was changed; empty where nothing was."""

    pixels: UInt8[Tensor, "channels height width"]
    converted: str


def open_picture(file: str) -> Image.Image:
    """The upright, decoded image; `InputError` names a file that is none."""
    require_file(file)
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"{image.width}x{image.height} pixels, more than {LARGEST}")
            image.load()
            return upright(image)
    except UNREADABLE as error:
        raise InputError(
            f"{file} cannot be read as an image ({shown(str(error), 200)}); name a PNG or JPEG file"
        ) from None


def read_picture(file: str, shape: tuple[int, int, int]) -> Picture:
    """The picture as (channels, height, width): another mode is converted, another size cropped and resized."""
    image, changes = open_picture(file), []
    mode = "RGB" if shape[0] == 3 else "L"
    if image.mode != mode:
        changes.append(f"{image.mode} to {mode}")
        try:
            image = eight_bits(image).convert(mode)
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
    size = (shape[2], shape[1])
    if image.size != size:
        changes.append(f"{image.width}x{image.height} to {size[0]}x{size[1]}")
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Picture(torch.from_numpy(np.ascontiguousarray(pixels)), ", ".join(changes))


def upright(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: turned as its EXIF orientation says; the format stays known."""
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format
    return turned


def eight_bits(image: Image.Image) -> Image.Image:
    """The picture in bytes, which Pillow's own conversion would cut off at 255. Transparent parts become white.

    16 bits are scaled by their range, floats from 0 to 1 by theirs; `ValueError` for numbers without a known range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("pixels are floats beyond 0 to 1; save it with 8 or 16 bits")
        return Image.fromarray((255 * values).round().astype(np.uint8))
    if image.mode.startswith("I"):
        raise ValueError("pixels are 32-bit numbers of no known range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        grey, seen = is_grey(image), image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return flat.convert("L" if grey else "RGB")
    return image


def is_grey(image: Image.Image) -> bool:
    """Whether a picture's mode has no colour."""
    return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
