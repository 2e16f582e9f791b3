"""A prompt: the classes that a network shall tell apart, in logit order, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from canon.errors import InputError
from weightflow.text.encoder import TextEncoder


@dataclass(frozen=True)
class Prompt:
    """Class descriptions in logit order; no two alike, none empty."""

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.classes or not all(name.strip() for name in self.classes):
            raise InputError(
                "the prompt names no class, or an empty one; write for instance: three, seven, nine"
            )
        if len(self.classes) < 2:
            raise InputError(
                f"the prompt names one class, '{self.classes[0]}'; a classifier needs two or more"
            )
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise InputError(f"the prompt names '{twice[0]}' twice; each class stands for one logit")

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """Comma-separated class descriptions, as people type them."""
        return cls(tuple(part.strip() for part in text.split(",")))


@dataclass(frozen=True)
class PromptBatch:
    """Class vectors padded to one length, and which of them are there."""

    vectors: Float[Tensor, "prompts classes text"]
    present: Bool[Tensor, "prompts classes"]

    def __getitem__(self, rows: Tensor | slice) -> PromptBatch:
        return PromptBatch(self.vectors[rows], self.present[rows])

    def __len__(self) -> int:
        return len(self.present)

    def shown(self, kept: Bool[Tensor, "prompts one"]) -> PromptBatch:
        """The empty prompt in every row that is not kept."""
        return PromptBatch(self.vectors, self.present & kept)

    def nothing(self) -> PromptBatch:
        """The empty prompt in every row."""
        return PromptBatch(self.vectors, torch.zeros_like(self.present))


def encode_prompts(encoder: TextEncoder, prompts: Sequence[Prompt], classes: int) -> PromptBatch:
    """Encode prompts and pad them to `classes`; `InputError` where one names more."""
    vectors = torch.zeros(len(prompts), classes, encoder.width)
    present = torch.zeros(len(prompts), classes, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        if len(prompt.classes) > classes:
            raise InputError(
                f"the prompt names {len(prompt.classes)} classes; this run was built for {classes} at most"
            )
        vectors[row, : len(prompt.classes)] = encoder.encode(prompt.classes)
        present[row, : len(prompt.classes)] = True
    return PromptBatch(vectors, present)
