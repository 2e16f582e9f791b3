"""One picture that a person names, as an array of the size and mode that networks take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from canon.errors import InputError
from canon.io.files import require_file

LARGEST = 2**26
"""Pixels: a small file can claim to be a huge image."""


@dataclass(frozen=True)
class Picture:
    """`pixels` are bytes; `converted` says what was changed, in words, nothing where it was as it should be."""

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
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image ({error}); name a PNG or JPEG file") from None


def read_picture(file: str, shape: tuple[int, int, int]) -> Picture:
    """The picture as (channels, height, width): another mode is converted, another size cropped and resized."""
    image, changes = open_picture(file), []
    mode = "RGB" if shape[0] == 3 else "L"
    if image.mode != mode:
        changes.append(f"{image.mode} to {mode}")
        image = _eight_bits(image).convert(mode)
    size = (shape[2], shape[1])
    if image.size != size:
        changes.append(f"{image.width}x{image.height} to {size[0]}x{size[1]}")
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Picture(torch.from_numpy(np.ascontiguousarray(pixels)), ", ".join(changes))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts values above 255 off: 16 bits are brought to 8 first. Transparent parts become white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        values = values / 257 if values.max(initial=0) > 255 else values
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image
