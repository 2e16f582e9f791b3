"""Caltech-256 as it is published and as torchvision keeps it: one folder a category."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from weightflow.data import decoded_cache, locations
from weightflow.data.types import ClassificationData
from weightflow.datasets.images import ImageOptions, decode_parts, file_at, is_image


def caltech256(size: int = 64, skip_corrupt: bool = False) -> ClassificationData:
    """30,000 colour images of 256 categories, resized; a fifth is cut off as test by a fixed seed.

    Category 257, clutter, is not a category and is left out. The few grey images are made colour.
    """
    folder = locations.find(
        "caltech256",
        ["caltech256/256_ObjectCategories", "256_ObjectCategories"],
        "001.*",
        locations.how_to_get("caltech256"),
    )
    categories = [d for d in sorted(folder.iterdir()) if d.is_dir() and not d.name.endswith("clutter")]
    options = ImageOptions(size, colour=True, skip_corrupt=skip_corrupt)
    files = [
        file_at(path, label)
        for label, category in enumerate(categories)
        for path in sorted(category.iterdir())
        if is_image(path.name)
    ]
    names = [human(category.name) for category in categories]

    def decode(target: Path) -> None:
        decode_parts("caltech256", target, {"train": files}, names, options)

    paths = [path for category in categories for path in category.iterdir()]
    key = decoded_cache.identity("caltech256", paths, **asdict(options))
    return decoded_cache.from_folder(
        "caltech256", decoded_cache.decoded(key, decode), licence="CC BY 4.0 (Griffin et al.)"
    )


def human(folder: str) -> str:
    """`145.motorbikes-101` -> `motorbikes`; `002.american-flag` -> `american flag`."""
    return re.sub(r"-101$", "", folder.partition(".")[2]).replace("-", " ").replace("_", " ")
