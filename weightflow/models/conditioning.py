"""Conditioning: how class vectors become text tokens of a model. A new kind is one row here.

classes          a token a class, in logit order (Tina, arXiv:2405.14132)
prior_attention  one token: the class vectors weighted by the softmax of their cosines to their mean
                 (Text2Weight, arXiv:2508.13633). The order of the classes is lost
none             no token: the generator is unconditional (DeepWeightFlow, arXiv:2601.05052)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Text = Float[Tensor, "batch classes text"]
Present = Bool[Tensor, "batch classes"]


@dataclass(frozen=True)
class Conditioning:
    """`tokens` of up to so many classes, `tell` (vectors, present) to as many vectors and which are there.

    `ordered`: token i stands for logit i.
    """

    tokens: Callable[[int], int]
    tell: Callable[[Text, Present], tuple[Tensor, Tensor]]
    ordered: bool = False


def prior_attention(text: Text, present: Present) -> tuple[Tensor, Tensor]:
    """One vector a prompt: sum of softmax(cos(v_c, mean v)) v_c over its classes c."""
    given = present.any(dim=1, keepdim=True)
    there = present.unsqueeze(-1)
    mean = (text * there).sum(1, keepdim=True) / present.sum(1).clamp(min=1).view(-1, 1, 1)
    cosine = F.cosine_similarity(text, mean, dim=-1)
    # a prompt without a class has no weights: softmax over nothing would be NaN
    weights = torch.where(present | ~given, cosine, -torch.inf).softmax(dim=1)
    return (weights.unsqueeze(-1) * text * there).sum(1, keepdim=True), given


CONDITIONINGS: dict[str, Conditioning] = {
    "classes": Conditioning(lambda classes: classes, lambda text, present: (text, present), ordered=True),
    "prior_attention": Conditioning(lambda classes: 1, prior_attention),
    "none": Conditioning(lambda classes: 0, lambda text, present: (text[:, :0], present[:, :0])),
}
