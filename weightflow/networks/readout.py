r"""Readouts: from a network's output to one score per class.

Logits: the output has one entry a class, in the task's order. Cosine: the output y is a vector and is
compared with the text vector v_c of each class,

    score_c = temperature <y, v_c> / (|y| |v_c|),

as CLIP compares images with words (Radford et al. 2021, arXiv:2103.00020; its trained temperature is 100).
Such a network has no order of classes and no number of them: the same weights answer for any words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.text import Prompt, TextEncoder, load_encoder
from weightflow.text.class_words import ClassWords, described
from weightflow.text.description import encode


class Readout(ABC):
    """How outputs become scores. `targets` is what it needs to know of the tasks, made once."""

    @property
    @abstractmethod
    def width(self) -> int | None:
        """The length that outputs must have, or None for one entry a class."""

    @abstractmethod
    def targets(
        self, tasks: Sequence[Sequence[str]], classes: int
    ) -> Float[Tensor, "networks classes width"]:
        """Of each task's class names, padded to `classes` with zeros."""

    @abstractmethod
    def scores(
        self, output: Float[Tensor, "networks batch output"], targets: Float[Tensor, "networks classes width"]
    ) -> Float[Tensor, "networks batch classes"]:
        """One score a class, to be compared within a row; those of classes that a task lacks mean nothing."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What the JSON of an architecture says of it."""


@dataclass(frozen=True)
class Logits(Readout):
    """The output as it is."""

    @property
    def width(self) -> None:
        return None

    def targets(self, tasks: Sequence[Sequence[str]], classes: int) -> Tensor:
        return torch.empty(len(tasks), classes, 0)

    def scores(self, output: Tensor, targets: Tensor) -> Tensor:
        return output

    def to_dict(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Cosine(Readout):
    """Cosine against text vectors. `identity` is that of the encoder when networks were first trained; `words` say
    what names of classes mean."""

    encoder: str
    identity: str
    temperature: float = 100.0
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def width(self) -> int:
        return self._encoder().width

    def targets(self, tasks: Sequence[Sequence[str]], classes: int) -> Tensor:
        encoder = self._encoder()
        vectors = torch.zeros(len(tasks), classes, encoder.width)
        for row, names in enumerate(tasks):
            vectors[row, : len(names)] = F.normalize(encoder.encode(names), dim=-1)
        return vectors

    def described(
        self, prompt: Prompt, seeing: TextEncoder | None = None
    ) -> Float[Tensor, "one classes width"]:
        """As `targets`, of one task whose classes are described as the prompt describes them.

        `seeing` is the same encoder, able to read pictures too. `InputError` where there are pictures and it is
        another.
        """
        encoder = self._encoder()
        if seeing is not None and seeing.identity == encoder.identity:
            encoder = seeing
        shown = [d.name for d in prompt.descriptions if d.images]
        if shown and not encoder.sees:
            raise InputError(
                f"'{shown[0]}' is shown by pictures, and outputs are compared with vectors of {self.encoder}, which "
                f"reads words; describe the class in words, or use a run over the features of a backbone with "
                f"encoder={self.encoder}"
            )
        return F.normalize(encode(encoder, prompt.descriptions), dim=-1).unsqueeze(0)

    def scores(self, output: Tensor, targets: Tensor) -> Tensor:
        return self.temperature * F.normalize(output, dim=-1) @ targets.to(output.dtype).mT

    def to_dict(self) -> dict[str, Any]:
        said = asdict(self)
        words = {name: list(own) for name, own in said.pop("words").items()}
        return {"readout": said | ({"words": words} if words else {})}

    def _encoder(self) -> Any:
        found = described(load_encoder(self.encoder), self.words)
        if found.identity != self.identity:
            raise InputError(
                f"text encoder mismatch: the networks need {self.identity}, '{self.encoder}' now resolves to "
                f"{found.identity}; restore the one that they were trained with"
            )
        return found


def cosine(encoder: str, temperature: float = 100.0, words: ClassWords | None = None) -> Cosine:
    """Compare with vectors of an encoder by name, as it is now."""
    if temperature <= 0:
        raise InputError(f"readout.temperature is {temperature}; it must be above 0")
    own = words or {}
    return Cosine(encoder, described(load_encoder(encoder), own).identity, temperature, own)


def from_dict(data: Mapping[str, Any] | None) -> Readout:
    """The inverse of `to_dict`."""
    if data is None:
        return Logits()
    words = {name: tuple(own) for name, own in dict(data.get("words", {})).items()}
    return Cosine(**{**data, "words": words})


class Compared(nn.Module):
    """A network and what it is compared with, words or images: examples to one score a class, as logits."""

    targets: Tensor

    def __init__(
        self, network: nn.Module, readout: Cosine, prompt: Prompt, seeing: TextEncoder | None = None
    ) -> None:
        super().__init__()
        self.network, self.readout, self.classes = network, readout, prompt.classes
        self.register_buffer("targets", readout.described(prompt, seeing), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.readout.scores(self.network(inputs).unsqueeze(0), self.targets).squeeze(0)
