"""The settings of a model, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """`kind` names the model. `width` and `dropout` are for all, the others for those that have them."""

    kind: str = "transformer"
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
