"""Networks that generate networks. A new one is one file here and one line in `MODELS`.

All take noisy coordinates (batch, tokens, width), times (batch,), class vectors (batch, classes, text)
and which classes are there (batch, classes), and give coordinates of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from weightflow.models.config import ModelConfig
from weightflow.models.mlp import WeightMLP
from weightflow.models.transformer import WeightTransformer
from weightflow.registry import pick
from weightflow.representation.layout import Layout

__all__ = ["MODELS", "ModelConfig", "make_model"]

MODELS: dict[str, Callable[[Layout, int, int, ModelConfig], nn.Module]] = {
    "transformer": WeightTransformer,
    "mlp": WeightMLP,
}


def make_model(config: ModelConfig, layout: Layout, text_width: int, classes: int) -> nn.Module:
    """A freshly initialised model for coordinates of this layout and prompts of up to `classes`."""
    return pick(MODELS, config.kind, "model")(layout, text_width, classes, config)
