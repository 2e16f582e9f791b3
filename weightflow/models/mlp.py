r"""The velocity network of DeepWeightFlow (arXiv:2601.05052): D - h - h/2 - h - D over the flat coordinates.

A small network of the time, and the mean of the class vectors where words say anything, are concatenated
to the input. The size of the time's part is not published.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from weightflow.models.conditioning import CONDITIONINGS
from weightflow.models.config import ModelConfig
from weightflow.models.text_standardization import word_map
from weightflow.representation.layout import Layout

TIME = 64


class WeightMLP(nn.Module):
    """Predicts coordinates (batch, tokens, width) from noisy ones, times and class vectors."""

    def __init__(self, layout: Layout, text_width: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.conditioning = CONDITIONINGS[config.conditioning]
        self.shape, h = (layout.tokens, layout.width), config.width
        self.time = nn.Sequential(nn.Linear(1, TIME), nn.GELU(), nn.Linear(TIME, TIME))
        self.text = word_map(text_width, TIME, config.centred)
        self.nothing = nn.Parameter(0.02 * torch.randn(TIME))
        size = layout.tokens * layout.width
        hidden = [
            part
            for before, after in pairwise((size + 2 * TIME, h, h // 2, h))
            for part in (
                nn.Linear(before, after),
                nn.LayerNorm(after),
                nn.GELU(),
                nn.Dropout(config.dropout),
            )
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(h, size))

    def forward(
        self,
        x_t: Float[Tensor, "batch tokens width"],
        t: Float[Tensor, " batch"],
        text: Float[Tensor, "batch classes text"],
        present: Bool[Tensor, "batch classes"],
    ) -> Float[Tensor, "batch tokens width"]:
        """`present` marks the classes of each prompt; a row without any is the empty prompt."""
        text, present = self.conditioning.tell(text, present)
        count = present.sum(1, keepdim=True)
        mean = (text * present.unsqueeze(-1)).sum(1) / count.clamp(min=1)
        words = torch.where(count > 0, self.text(mean), self.nothing)
        told, first = torch.cat([self.time(t.unsqueeze(1)), words], dim=1), self.layers[0]
        assert isinstance(first, nn.Linear)
        # the concatenation with x_t, without a copy of whole networks
        into, beside = first.weight.split((x_t[0].numel(), told.shape[1]), dim=1)
        x = torch.addmm(F.linear(told, beside, first.bias), x_t.flatten(1), into.T)
        return self.layers[1:](x).unflatten(1, self.shape)
