"""Features of a data set's images under a frozen backbone, as a data set.

Labels, names and splits are those of the images, and so is the seal on the test examples. Features are
computed once and cached under the hash of the backbone's file and of the images.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from canon.errors import InputError
from canon.io.files import require_file
from weightflow.data import decoded_cache
from weightflow.data.types import ClassificationData

if TYPE_CHECKING:
    from weightflow.backbones import Backbone


def through(images: ClassificationData, backbone: str, name: str) -> ClassificationData:
    """`images` seen through the backbone in a file; `InputError` where either is none."""
    from weightflow.backbones import read_backbone

    path = Path(backbone).expanduser()
    require_file(path)
    if images.folder is None or len(images.input_shape) != 3:
        raise InputError(
            f"data set '{images.name}' has examples of shape {images.input_shape}; a backbone sees images"
        )
    source, frozen = images.folder, read_backbone(path)
    key = decoded_cache.identity("features", [], images=source.name, backbone=frozen.digest)
    folder = decoded_cache.decoded(key, lambda target: _compute(frozen, source, target))
    data = decoded_cache.from_folder(name, folder, licence=images.licence, divisor=1.0)
    unknown = tuple(own for own in frozen.card.excluded if own in images.class_names)
    return dataclasses.replace(data, features=frozen, backbone_digest=frozen.digest, excluded=unknown)


def _compute(backbone: Backbone, source: Path, target: Path, batch: int = 256) -> None:
    for part in decoded_cache.PARTS:
        if not (source / f"{part}.npy").exists():
            continue
        images = np.load(source / f"{part}.npy", mmap_mode="c")
        place, rows = target / f"{part}.npy", None
        for start in range(0, len(images), batch):
            found = backbone(torch.from_numpy(images[start : start + batch])).numpy()
            if not np.isfinite(found).all():
                raise InputError(
                    "features of the backbone are not finite: its weights are damaged or too large; make it again"
                )
            if rows is None:
                rows = np.lib.format.open_memmap(place, "w+", np.float32, (len(images), found.shape[1]))
            rows[start : start + batch] = found
        for kept in (f"{part}_labels.npy", f"{part}_keys.npy"):
            if (source / kept).exists():
                shutil.copy(source / kept, target)
    for kept in (decoded_cache.NAMES, decoded_cache.REMARKS):
        if (source / kept).exists():
            shutil.copy(source / kept, target)
