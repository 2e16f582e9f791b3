"""Anchors as a part of the generator: rows for any class vectors, and which classes are known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from weightflow.representation.layout import Layout
from weightflow.zero_shot.regression import OWN, Regression

# vectors of one class: the cosine, about the centre of the known ones, from which two count as the same
SAME = 0.95


class Anchors(nn.Module):
    """Where each class of a prompt is expected, in the coordinates of the flow, one token a class.

    Vectors may be longer than those of words: then they end in a row over the features, as `regression.py` has them,
    and in 1 where that row is to be taken. `tensors` are those of `fit`, and `mean` and `std` (classes, width): the
    coordinates of the class tokens.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())
        self.width: int = tensors["shift"].shape[0]

    def rows(self, vectors: Float[Tensor, "*batch text"]) -> Float[Tensor, "*batch width"]:
        """Rows of the last layer: what is known where the class is, what the words say where it is not."""
        t = dict(self.named_buffers())
        words = t["known"].shape[1]
        if vectors.shape[-1] > words:  # some classes are shown by pictures, and their rows are given
            given, seen = vectors[..., words:-1], vectors[..., -1:] > 0
            shown = t["gain"] * given[..., : self.width] + t["shift"]
            return torch.where(seen, shown, self.rows(vectors[..., :words]))
        regression = Regression(**{name: t[name] for name in Regression.__dataclass_fields__})
        near = regression.similarity(vectors, t["shift"].new_tensor(OWN))
        said = regression.rows(vectors)[..., : self.width]
        return t["gain"] * said + t["shift"] + near @ t["own"]

    def familiar(self, vectors: Float[Tensor, "*batch text"]) -> Bool[Tensor, "*batch one"]:
        """Whether a class is one of the known ones; one that pictures show is taken as they show it."""
        t = dict(self.named_buffers())
        words = t["known"].shape[1]
        if vectors.shape[-1] > words:
            return self.familiar(vectors[..., :words]) & ~(vectors[..., -1:] > 0)
        cosine = (F.normalize(F.normalize(vectors, dim=-1) - t["centre"], dim=-1) @ t["known"].T).amax(-1)
        return (cosine > SAME).unsqueeze(-1)

    def forward(
        self, vectors: Float[Tensor, "batch classes text"]
    ) -> tuple[Float[Tensor, "batch classes coordinates"], Bool[Tensor, "batch classes one"]]:
        """The anchors, and which classes are known."""
        t, classes = dict(self.named_buffers()), vectors.shape[1]
        rows = (self.rows(vectors) - t["mean"][:classes]) / t["std"][:classes]
        return rows, self.familiar(vectors)


def as_tokens(
    layout: Layout, rows: Float[Tensor, "batch classes width"]
) -> Float[Tensor, "batch tokens all"]:
    """Rows of classes in the place of their tokens, zero elsewhere."""
    start, _, _ = _place(layout)
    after = layout.tokens - start - rows.shape[1]
    return F.pad(rows, (0, layout.width - rows.shape[2], start, after))


def of_classes(layout: Layout, tokens: Float[Tensor, "tokens all"]) -> Float[Tensor, "classes width"]:
    """The tokens that stand for classes."""
    start, end, width = _place(layout)
    return tokens[start:end, :width]


def _place(layout: Layout) -> tuple[int, int, int]:
    start = 0
    for block in layout.blocks:
        if block.kind == "classes":
            return start, start + block.tokens, block.width
        start += block.tokens
    raise AssertionError("weightflow.training.compatibility sees to it that the layout has class tokens")
