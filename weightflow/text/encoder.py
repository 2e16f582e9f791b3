"""The text-encoder interface: one vector per description, or per image where supported."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import require_file, sha256


class TextEncoder(ABC):
    """`identity` names the encoder and all that decides its vectors; `width` is their length.

    `sees`: it has vectors for images too, in the space of the words.

    Example:
        >>> import torch, weightflow
        >>> class Lengths(weightflow.TextEncoder):
        ...     identity, width = "lengths", 2
        ...     def vectors(self, descriptions):
        ...         return torch.tensor([[len(d), 1.0] for d in descriptions])
        >>> Lengths().encode(["seven"]).shape
        torch.Size([1, 2])
    """

    identity: str
    width: int
    sees: bool = False

    @abstractmethod
    def vectors(self, descriptions: Sequence[str]) -> Float[Tensor, "descriptions width"]:
        """One raw vector a description. `InputError` for a description that it cannot represent."""

    def image_vectors(self, files: Sequence[str]) -> Float[Tensor, "images width"]:
        """One raw vector an image file, for encoders that see. `InputError` for one that it cannot read."""
        raise NotImplementedError

    def encode(self, descriptions: Sequence[str]) -> Float[Tensor, "descriptions width"]:
        """Vectors of root mean square 1, the scale that the generator expects."""
        return self._scaled(self.vectors(descriptions)) if descriptions else torch.empty(0, self.width)

    def shown(self, words: Float[Tensor, "words width"], files: Sequence[str]) -> Float[Tensor, " width"]:
        """One vector, root mean square 1, for a class that image files show, and vectors of words or none say.

        Here the mean of all of them. `InputError` where the encoder does not see.
        """
        return mean_vector([*words, *self.encode_images(files)])

    def encode_images(self, files: Sequence[str]) -> Float[Tensor, "images width"]:
        """As `encode`, of images. `InputError` where the encoder does not see."""
        if files and not self.sees:
            raise InputError(
                f"'{files[0]}' is an image, and the text encoder {self.identity} reads words alone; describe "
                "the class in words, or use a run over the features of a backbone or one trained with open_clip"
            )
        return self._scaled(self.image_vectors(files)) if files else torch.empty(0, self.width)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors.float(), dim=-1) * self.width**0.5


MOST_KEPT = 100_000
"""Vectors in memory; those of a million words would take gigabytes."""


@dataclass
class CachedEncoder(TextEncoder):
    """A caching wrapper: each description is encoded once and kept on disk.

    With a `folder`, vectors are kept there under the hash of the encoder's identity and the description
    (of an image: its content), so that a slow encoder is not even loaded for words it has seen.
    """

    inner: TextEncoder
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.identity, self.width, self.sees = self.inner.identity, self.inner.width, self.inner.sees
        self._known: dict[str, Tensor] = {}

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        return self._ask(descriptions, descriptions, self.inner.vectors)

    def image_vectors(self, files: Sequence[str]) -> Tensor:
        for file in files:
            require_file(file)
        # by content: a file may change under its name
        return self._ask([f"image\0{sha256(file)}" for file in files], files, self.inner.image_vectors)

    def _ask(
        self, keys: Sequence[str], things: Sequence[str], vectors: Callable[[Sequence[str]], Tensor]
    ) -> Tensor:
        for key in keys:
            if key not in self._known and (kept := self._read(key)) is not None:
                self._known[key] = kept
        new = {key: thing for key, thing in zip(keys, things, strict=True) if key not in self._known}
        if new:
            for key, vector in zip(new, vectors(list(new.values())), strict=True):
                self._known[key] = vector
                self._write(key, vector)
        found = torch.stack([self._known[key] for key in keys])
        if len(self._known) > MOST_KEPT:
            self._known.clear()
        return found

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        content = f"{self.identity}\0{key}".encode()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"

    def _read(self, key: str) -> Tensor | None:
        if self.folder is None or not self._path(key).exists():
            return None
        try:
            vector = checkpoint.read(self._path(key)).state.get("vector")
        except InputError:
            return None  # a damaged entry is only a reason to encode again
        return vector if vector is not None and vector.shape == (self.width,) else None

    def _write(self, key: str, vector: Tensor) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write(self._path(key), {"vector": vector.float()})


def mean_vector(ways: Sequence[Tensor]) -> Tensor:
    """One vector for several ways to describe a class, root mean square 1; a single one as it is."""
    if len(ways) == 1:
        return ways[0]
    return F.normalize(torch.stack(list(ways)).mean(0), dim=-1) * len(ways[0]) ** 0.5


def cache_folder() -> Path:
    """Where vectors are kept: WEIGHTFLOW_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WEIGHTFLOW_CACHE") or Path(base) / "weightflow") / "text"
