"""The one interface of all text encoders: words in, one vector a description out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


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
class Remembered(TextEncoder):
    """An encoder that asks the one it wraps once for each description."""

    inner: TextEncoder

    def __post_init__(self) -> None:
        self.identity, self.width = self.inner.identity, self.inner.width
        self._known: dict[str, Tensor] = {}

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        new = [d for d in dict.fromkeys(descriptions) if d not in self._known]
        if new:
            self._known.update(zip(new, self.inner.vectors(new), strict=True))
        return torch.stack([self._known[d] for d in descriptions])
