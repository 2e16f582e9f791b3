"""The pre-norm transformer block that images and text share, and the two encoders made of it.

Vision transformer: Dosovitskiy et al. 2021, arXiv:2010.11929. With patches of 4, width 192, depth 6 and
3 heads on 32x32 images it has 2,693,578 parameters at ten classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canon.errors import InputError


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); `mask` (batch, 1, 1, tokens) is true where to look."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} cannot be shared by {heads} heads; choose a multiple")
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        heads = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        # written out: the fused kernel cannot run a population at once
        mixed = scores.softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks, a linear layer on the class token."""

    def __init__(
        self, classes: int, size: int, patch: int, width: int, depth: int, heads: int, channels: int
    ) -> None:
        super().__init__()
        if size % patch:
            raise InputError(f"images of {size} pixels cannot be cut into patches of {patch}")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class TextTransformer(nn.Module):
    """Words (batch, length) as whole numbers, 0 for none; the mean over words, then a linear layer."""

    def __init__(
        self, classes: int, vocabulary: int, length: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, words: Tensor) -> Tensor:
        words = words.long()
        known = words > 0
        x = self.words(words) + self.positions.weight[: words.shape[1]]
        for block in self.blocks:
            x = block(x, known[:, None, None, :])
        share = known.to(x.dtype).unsqueeze(-1)
        return self.head((self.norm(x) * share).sum(1) / share.sum(1).clamp(min=1))

    def example_inputs(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random words, none of them missing."""
        shape = (batch, self.positions.num_embeddings)
        return torch.randint(1, self.words.num_embeddings, shape, generator=generator)


def vit(
    classes: int,
    size: int = 32,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    channels: int = 3,
) -> VisionTransformer:
    """A vision transformer on square images of `size` pixels."""
    return VisionTransformer(classes, size, patch, width, depth, heads, channels)


def text_transformer(
    classes: int, vocabulary: int, length: int = 128, width: int = 768, depth: int = 12, heads: int = 12
) -> TextTransformer:
    """A pre-norm text encoder with one output a class; one class makes it a regression."""
    return TextTransformer(classes, vocabulary, length, width, depth, heads)
