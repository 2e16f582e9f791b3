"""The settings of a model, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError
from weightflow.models.conditioning import CONDITIONINGS
from weightflow.registry import pick


@dataclass(frozen=True)
class ModelConfig:
    """`kind` names the model. `width` and `dropout` are for all, the others for those that have them.

    `conditioning` is what it is told of a prompt; `modulated` how time and prompt reach the layers.
    `centred`: text tokens come less what the training prompts have in common. `positions`: the spread that learned
    positions begin with; where tokens of weights and of text must find each other by them, wide is fast.
    `edges`: tokens of weights also exchange messages along the weights between them, see `models/edges.py`.
    `own_maps`: every token has linear maps into and out of the model of its own, not one a block of tokens.
    """

    kind: str = "transformer"
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    conditioning: str = "classes"
    modulated: bool = True
    centred: bool = False
    positions: float = 0.02
    own_maps: bool = False
    edges: bool = False

    def __post_init__(self) -> None:
        pick(CONDITIONINGS, self.conditioning, "conditioning")
        if min(self.width, self.depth) < 1 or max(self.width, self.depth) >= 2**24:
            raise InputError(f"model.width {self.width} and model.depth {self.depth} are at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout is {self.dropout}; it is a share from 0 to below 1")
        if not 0 < self.mlp_ratio <= 1000:
            raise InputError(f"model.mlp_ratio is {self.mlp_ratio}; it is above 0 and at most 1000")
        if self.heads < 1 or self.width % self.heads:
            raise InputError(
                f"model.width {self.width} cannot be shared among model.heads {self.heads}; take a multiple"
            )
