"""Pictures in prompts through a run's own backbone: no CLIP is needed.

What pictures are weighed with (`evidence.py`) is fitted to the training features of the run's data set when pictures
are first asked for, and kept in the run's folder as `pictures.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.digests import digest_of
from canon.io.files import sha256
from weightflow import datasets
from weightflow.data.pictures import read_picture
from weightflow.datasets import DataInfo
from weightflow.text import Description, TextEncoder
from weightflow.zero_shot.evidence import Evidence
from weightflow.zero_shot.fit_evidence import fit_evidence

FILE = "pictures.safetensors"
BATCH = 64
# counts up whenever what is fitted, or how, changes
FORM = 1


class PictureEncoder(TextEncoder):
    """An encoder of words that sees through a backbone: a class shown by pictures has the vector that they predict.

    `folder` is that of the run, `data` what the run knows of its data set. `converted` says of each picture that was
    not of the size and mode of the data set's images what was changed.
    """

    sees = True

    def __init__(self, words: TextEncoder, data: DataInfo, folder: Path) -> None:
        assert data.backbone is not None
        self.words, self.data, self.folder = words, data, folder
        self.identity, self.width = words.identity, words.width
        self.converted: dict[str, str] = {}
        self._known: dict[str, Tensor] = {}

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        return self.words.vectors(descriptions)

    def encode(self, descriptions: Sequence[str]) -> Tensor:
        return self.words.encode(descriptions)

    def shown(self, words: Float[Tensor, "words width"], files: Sequence[str]) -> Float[Tensor, " width"]:
        return self._evidence[0].vector(_mean(words), self.features(files))

    def row(self, description: Description) -> Float[Tensor, " features_and_bias"]:
        """The class's weights and bias over the features, by linear discriminant analysis about its mean."""
        words = self.encode(description.words)
        evidence = self._evidence[0]
        return evidence.row(evidence.mean(_mean(words), self.features(description.images)))

    def features(self, files: Sequence[str]) -> Float[Tensor, "images features"]:
        """What networks of the run would be given for these pictures, each read once."""
        keys, shape = [], self._evidence[1]
        waiting: dict[str, Tensor] = {}
        for file in files:
            picture = read_picture(file, shape)
            key = sha256(file)  # a file may change under its name
            if picture.converted:
                self.converted[file] = picture.converted
            if key not in self._known:
                waiting[key] = picture.pixels
            if len(waiting) == BATCH:
                self._see(waiting)
            keys.append(key)
        self._see(waiting)
        return torch.stack([self._known[key] for key in keys])

    def _see(self, waiting: dict[str, Tensor]) -> None:
        if waiting:
            found = self.data.preprocessing(self._backbone(torch.stack(list(waiting.values()))))
            self._known.update(zip(waiting, found, strict=True))
            waiting.clear()

    @cached_property
    def _backbone(self) -> Callable[[Tensor], Tensor]:
        from weightflow.backbones import backbone_of

        return backbone_of(self.data)

    @cached_property
    def _evidence(self) -> tuple[Evidence, tuple[int, int, int]]:
        """What pictures are weighed with, and the shape of the data set's images."""
        path = self.folder / FILE
        key = digest_of(
            {
                "form": FORM, "words": self.identity, "dataset": self.data.images,
                "backbone": sha256(str(self.data.backbone)), "known": self.data.known,
            }
        )  # fmt: skip
        if path.exists():
            found = checkpoint.read(path)
            if found.metadata.get("fitted_to") == key:
                return Evidence(**found.state), _shape(found.metadata["shape"])
        try:
            data = datasets.load(self.data.dataset)
            images = datasets.load(self.data.images)
        except InputError as error:
            raise InputError(
                f"pictures are weighed with the run's training images, and {error}; once it is done where they are, "
                f"{path} is all that is needed"
            ) from None
        evidence = fit_evidence(data, self.data.known, self.words.encode(self.data.known))
        shape = images.input_shape
        tensors = {field.name: getattr(evidence, field.name) for field in fields(Evidence)}
        with suppress(InputError):  # a folder that cannot be written is no reason to give no answer
            checkpoint.write(path, tensors, {"fitted_to": key, "shape": " ".join(map(str, shape))})
        return evidence, _shape(" ".join(map(str, shape)))


def _mean(words: Float[Tensor, "words width"]) -> Tensor | None:
    """One vector for several ways to say a class."""
    return words.mean(0) if len(words) else None


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split())
    return channels, height, width
