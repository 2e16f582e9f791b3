r"""A linear layer with cosine readout: scores and gradients without computing its outputs.

    y = W h,   s_c = <v_c, y> / |y|,   <v_c, y> = (V W h)_c,   |y|^2 = h^T G h,   G = W^T W

where the bias is W's last column and the last entry of h is 1. An adapter's W has as many rows as a text
vector has numbers (512) and few columns (16): products with V and W are made once a step instead of once an
example, and nothing of the width of the text is kept for each example.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class CosineLayer:
    """`weight` (networks, text, hidden) and `bias` (networks, text) of the layers; `vectors` V, scaled."""

    def __init__(self, weight: Tensor, bias: Tensor, vectors: Float[Tensor, "networks classes text"]) -> None:
        self.weight, self.bias, self.vectors = weight, bias, vectors.to(weight.dtype)

    def scores(self, h: Float[Tensor, "networks hidden batch"]) -> Float[Tensor, "networks classes batch"]:
        self.h = torch.cat([h, h.new_ones(len(h), 1, h.shape[2])], dim=1)
        self.w = torch.cat([self.weight, self.bias.unsqueeze(-1)], dim=2)
        self.vw = torch.bmm(self.vectors, self.w)
        self.gram_h = torch.bmm(torch.bmm(self.w.mT, self.w), self.h)
        self.norm = (self.h * self.gram_h).sum(1, keepdim=True).clamp_(min=1e-12).sqrt_()
        self.s = torch.bmm(self.vw, self.h).div_(self.norm)
        return self.s

    def gradients(
        self, d: Float[Tensor, "networks classes batch"]
    ) -> tuple[Tensor, Tensor, Float[Tensor, "networks hidden batch"]]:
        """Of a loss whose derivative by the last scores is `d`: by weight, by bias and by `h`."""
        inner = d / self.norm  # by <v_c, y>
        half = (inner * self.s).sum(1, keepdim=True).div_(self.norm).neg_()  # by |y|^2, twice
        by_gram = torch.bmm(half * self.h, self.h.mT)
        w = torch.bmm(self.vectors.mT, torch.bmm(inner, self.h.mT)).baddbmm_(self.w, by_gram)
        h = torch.bmm(self.vw.mT, inner).addcmul_(half, self.gram_h)
        return w[..., :-1], w[..., -1], h[:, :-1]
