"""Linear maps between the entries of tokens and the width of a model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OwnLinear(nn.Module):
    """A linear map of its own for every token, as G.pt (arXiv:2209.12892) and Text2Weight have them."""

    def __init__(self, tokens: int, inputs: int, outputs: int) -> None:
        super().__init__()
        # nn.Linear's own initialisation
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(tokens, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(tokens, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens outputs"]:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)
