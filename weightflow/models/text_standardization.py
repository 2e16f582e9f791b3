"""Standardization of text vectors: as encoded, or relative to the mean over training prompts.

Vectors of one encoder share a large part (CLIP's point the same way but for a little), and averages of many
classes hardly differ. A model that is shown what sets prompts apart need not learn to subtract the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightflow.models.conditioning import Conditioning
from weightflow.text.prompt import PromptBatch

MOST = 10_000
"""Training prompts, evenly spaced, that a model's words are centred by, at most."""


class TextStandardization(nn.Module):
    """Text tokens less their mean, divided by the root mean square of what is left: over the training prompts."""

    centre: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, told: Float[Tensor, "tokens width"]) -> None:
        self.centre.copy_(told.mean(0))
        self.scale.copy_((told - self.centre).square().mean().sqrt().clamp(min=1e-6))

    def forward(self, text: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return (text - self.centre) / self.scale


def word_map(width: int, inner: int, centred: bool) -> nn.Module:
    """From text tokens to the width of a model."""
    linear = nn.Linear(width, inner)
    return nn.Sequential(TextStandardization(width), linear) if centred else linear


def centre_words(model: nn.Module, conditioning: Conditioning, prompts: PromptBatch) -> None:
    """Fit what a model subtracts from its words to what it is told of the training prompts."""
    few = prompts[:: -(-len(prompts) // MOST)] if len(prompts) > MOST else prompts
    text, told = conditioning.tell(few.vectors, few.present)
    for part in model.modules():
        if isinstance(part, TextStandardization) and told.any():
            part.fit(text[told])
