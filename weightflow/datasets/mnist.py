"""MNIST and Fashion-MNIST in their IDX files, plain or gzipped, as torchvision and Debian lay them down."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch

from canon.errors import InputError
from canon.io.files import require_file
from weightflow.data import decoded_cache, locations
from weightflow.data.types import ClassificationData
from weightflow.datasets.scikit_learn import DIGIT_NAMES

FASHION_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PARTS = {"train": "train", "test": "t10k"}
DEBIAN = "dataset-fashion-mnist"
LARGEST = 1 << 28
"""Bytes of pixels in a file; the largest of these data sets has 47 million."""


def mnist(size: int | None = None) -> ClassificationData:
    """70,000 grey images of digits, 1x28x28, or made `size` pixels high and wide."""
    folder = locations.find(
        "mnist", ["MNIST/raw", "mnist"], "train-images-idx3-ubyte*", locations.how_to_get("mnist")
    )
    return _load("mnist", folder, DIGIT_NAMES, "CC BY-SA 3.0 (LeCun, Cortes, Burges)", size)


def fashion_mnist(size: int | None = None) -> ClassificationData:
    """70,000 grey images of clothing, 1x28x28, or made `size` pixels high and wide."""
    folder = locations.find(
        "fashion_mnist",
        ["FashionMNIST/raw", "fashion-mnist"],
        "train-images-idx3-ubyte*",
        f"on Debian: apt-get install {DEBIAN}; or {locations.how_to_get('fashion_mnist')}",
        more=debian_folders(),
    )
    return _load("fashion_mnist", folder, FASHION_NAMES, "MIT (Zalando SE)", size)


def debian_folders() -> list[Path]:
    """Where Debian's package puts Fashion-MNIST: the known places, then what dpkg says."""
    found = [Path("/usr/share") / DEBIAN, Path("/usr/share/datasets/fashion-mnist")]
    if shutil.which("dpkg"):
        listed = subprocess.run(["dpkg", "-L", DEBIAN], capture_output=True, text=True, check=False).stdout
        found += [Path(line).parent for line in listed.splitlines() if "train-images-idx3" in line]
    return list(dict.fromkeys(found))


def _load(
    name: str, folder: Path, class_names: tuple[str, ...], licence: str, size: int | None
) -> ClassificationData:
    files = {
        part: (_file(folder, f"{stem}-images-idx3-ubyte"), _file(folder, f"{stem}-labels-idx1-ubyte"))
        for part, stem in PARTS.items()
    }

    def decode(target: Path) -> None:
        for part, (images, labels) in files.items():
            pixels, targets = read_idx(images), read_idx(labels)
            if pixels.ndim != 3 or targets.shape != pixels.shape[:1]:
                raise InputError(
                    f"{images} holds pixels {pixels.shape}, {labels} labels {targets.shape}; expected (images, height, "
                    "width) and a label each: get both files again"
                )
            decoded_cache.write_part(target, part, _resized(pixels[:, None], size), targets)
        decoded_cache.write_names(target, class_names)

    options = {} if size is None else {"size": size}
    key = decoded_cache.identity(name, [f for pair in files.values() for f in pair], **options)
    return decoded_cache.from_folder(name, decoded_cache.decoded(key, decode), licence=licence)


def _resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """Bytes (images, 1, height, width) at another size, each pixel the mean of what it covers."""
    if size is None:
        return images
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(images.copy()).float(), (size, size), mode="bilinear", antialias=True
    )
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise InputError(f"{folder} has no {name} nor {name}.gz; it is incomplete: download it again")


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes; `InputError` names a file that is damaged."""
    require_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08":
                raise InputError(f"{path} is not an IDX file of bytes; download it again")
            sizes = file.read(4 * start[3])
            shape = [int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4")]
            count = prod(shape)
            if len(sizes) < 4 * start[3] or count > LARGEST:
                raise InputError(f"{path} is damaged: its header says {' x '.join(map(str, shape))}")
            content = file.read(count + 1)  # a small file unpacks to any size
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; download it again") from None
    if len(content) != count:
        raise InputError(
            f"{path} is damaged: {'more' if len(content) > count else len(content)} values, "
            f"its header says {' x '.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
