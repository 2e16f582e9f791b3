"""The one interface of all text encoders: words in, one vector a description out."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from canon.files import replacing


class TextEncoder(ABC):
    """`identity` names the encoder and all that decides its vectors; `width` is their length."""

    identity: str
    width: int

    @abstractmethod
    def vectors(self, descriptions: Sequence[str]) -> Float[Tensor, "descriptions width"]:
        """One raw vector a description. `InputError` for a description that it cannot represent."""

    def encode(self, descriptions: Sequence[str]) -> Float[Tensor, "descriptions width"]:
        """Vectors of root mean square 1, the scale that the generator expects."""
        if not descriptions:
            return torch.empty(0, self.width)
        return F.normalize(self.vectors(descriptions).float(), dim=-1) * self.width**0.5


@dataclass
class Cached(TextEncoder):
    """An encoder that asks the one it wraps once for each description, in this process and the next.

    With a `folder`, vectors are kept there under the hash of the encoder's identity and the description,
    so that a slow encoder is not even loaded for words it has seen.
    """

    inner: TextEncoder
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.identity, self.width = self.inner.identity, self.inner.width
        self._known: dict[str, Tensor] = {}

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        for description in descriptions:
            if description not in self._known and (kept := self._read(description)) is not None:
                self._known[description] = kept
        new = [d for d in dict.fromkeys(descriptions) if d not in self._known]
        if new:
            for description, vector in zip(new, self.inner.vectors(new), strict=True):
                self._known[description] = vector
                self._write(description, vector)
        return torch.stack([self._known[d] for d in descriptions])

    def _path(self, description: str) -> Path:
        assert self.folder is not None
        content = f"{self.identity}\0{description}".encode()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}.npy"

    def _read(self, description: str) -> Tensor | None:
        if self.folder is None or not self._path(description).exists():
            return None
        try:
            vector = np.load(self._path(description), allow_pickle=False)
        except (ValueError, OSError):
            return None  # a damaged entry is only a reason to encode again
        return torch.from_numpy(vector) if vector.shape == (self.width,) else None

    def _write(self, description: str, vector: Tensor) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(description)) as file:
            np.save(file, vector.float().numpy())


def cache_folder() -> Path:
    """Where vectors are kept: WEIGHTFLOW_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WEIGHTFLOW_CACHE") or Path(base) / "weightflow") / "text"
