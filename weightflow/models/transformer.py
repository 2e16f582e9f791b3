r"""A transformer over tokens of weights and words.

Every token of weights passes through the linear map of its block, or one of its own, gains a learned position, and
attends in both directions to all others and to the tokens of the text. Where tokens of text stand for
classes, tokens of weights that stand for a class carry that class's words directly.

With edges, tokens of weights also exchange messages along the weights between them (`models/edges.py`).

Modulated: time and the mean of the text tokens shift, scale and gate each layer (adaLN-zero, Peebles &
Xie 2023, arXiv:2212.09748), so that every token is conditioned twice. Plain: time is one more token of a
pre-norm transformer (G.pt, Peebles et al. 2022, arXiv:2209.12892; Text2Weight; Tina).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from weightflow.models.conditioning import CONDITIONINGS
from weightflow.models.config import ModelConfig
from weightflow.models.edges import Edges, LastEdges
from weightflow.models.per_token_linear import OwnLinear
from weightflow.models.text_standardization import word_map
from weightflow.representation.layout import Block, Layout


class TimeEmbedding(nn.Module):
    """Sines and cosines of t in [0, 1] at geometric frequencies, then two linear layers."""

    frequencies: Tensor

    def __init__(self, width: int, count: int = 64) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), count // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        angle = t.unsqueeze(1) * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))


def _modulation(width: int, vectors: int) -> nn.Linear:
    """A condition to so many vectors, all zero at first (adaLN-zero)."""
    linear = nn.Linear(width, vectors * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Layer(nn.Module):
    """Pre-norm attention and MLP. Modulated, shift, scale and gate of both come from the condition."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads, self.dropout = config.heads, config.dropout
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=not config.modulated)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=not config.modulated)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.modulation = _modulation(width, 6) if config.modulated else None

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        if self.modulation is None:
            x = x + self._attend(self.norm_attention(x), mask)
            return x + self._dropped(self.mlp(self.norm_mlp(x)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        )
        x = x + gate_a * self._attend(self.norm_attention(x) * (1 + scale_a) + shift_a, mask)
        return x + gate_m * self._dropped(self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _linear(config: ModelConfig, block: Block, inputs: int, outputs: int) -> nn.Module:
    return OwnLinear(block.tokens, inputs, outputs) if config.own_maps else nn.Linear(inputs, outputs)


class WeightTransformer(nn.Module):
    """Predicts tokens (batch, tokens, width) from noisy tokens, times and class vectors."""

    def __init__(self, layout: Layout, text_width: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.layout = layout
        self.conditioning = CONDITIONINGS[config.conditioning]
        width = config.width
        self.encoders = nn.ModuleList(_linear(config, b, b.width, width) for b in layout.blocks)
        self.decoders = nn.ModuleList(_linear(config, b, width, b.width) for b in layout.blocks)
        self.positions = nn.Parameter(config.positions * torch.randn(layout.tokens, width))
        self.text = word_map(text_width, width, config.centred)
        self.slots = nn.Parameter(config.positions * torch.randn(self.conditioning.tokens(classes), width))
        self.nothing = nn.Parameter(0.02 * torch.randn(width))
        self.time = TimeEmbedding(width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=not config.modulated)
        self.modulation = _modulation(width, 2) if config.modulated else None
        for parameter in self.decoders.parameters():
            nn.init.zeros_(parameter)
        linked = config.edges and bool(layout.links)
        self.edges = nn.ModuleList(Edges(layout, width) for _ in range(config.depth if linked else 0))
        self.last_edges = LastEdges(layout, width) if linked else None

    def forward(
        self,
        x_t: Float[Tensor, "batch tokens width"],
        t: Float[Tensor, " batch"],
        text: Float[Tensor, "batch classes text"],
        present: Bool[Tensor, "batch classes"],
    ) -> Float[Tensor, "batch tokens width"]:
        """`present` marks the classes of each prompt; a row without any is the empty prompt."""
        text, told = self.conditioning.tell(text, present)
        words = (self.text(text) + self.slots[: text.shape[1]]) * told.unsqueeze(-1)
        given = told.any(dim=1, keepdim=True)
        pooled = torch.where(given, words.sum(1) / told.sum(1, keepdim=True).clamp(min=1), self.nothing)
        time = self.time(t)
        first = time if self.modulation is None else pooled
        x = torch.cat([first.unsqueeze(1), words, self._embed(x_t, words)], dim=1)
        seen = torch.cat([torch.ones_like(given), told, given.new_ones(len(x), self.layout.tokens)], dim=1)
        mask, condition = seen[:, None, None, :], F.silu(time + pooled)
        for number, layer in enumerate(self.layers):
            x = layer(x, condition, mask)
            if self.edges:
                others, weights = x[:, : -self.layout.tokens], x[:, -self.layout.tokens :]
                x = torch.cat([others, self.edges[number](weights, x_t)], dim=1)
        x = self.norm(x[:, -self.layout.tokens :])
        if self.modulation is not None:
            shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        return self._decode(x, x_t, present)

    def _embed(self, x_t: Tensor, words: Tensor) -> Tensor:
        parts = []
        for block, encoder, rows in zip(self.layout.blocks, self.encoders, self._split(x_t), strict=True):
            # contiguous: one product for all networks instead of one each
            part = encoder(rows[..., : block.width].contiguous())
            if block.kind == "classes" and self.conditioning.ordered:
                part = part + F.pad(words, (0, 0, 0, block.tokens - words.shape[1]))
            parts.append(part)
        return torch.cat(parts, dim=1) + self.positions

    def _decode(self, x: Tensor, x_t: Tensor, present: Tensor) -> Tensor:
        if self.last_edges is None:
            rows = [d(part.contiguous()) for d, part in zip(self.decoders, self._split(x), strict=True)]
        else:
            rows = self.last_edges(x, x_t, list(self.decoders), present)
        width = self.layout.width
        return torch.cat(
            [part if part.shape[-1] == width else F.pad(part, (0, width - part.shape[-1])) for part in rows],
            dim=1,
        )

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split([block.tokens for block in self.layout.blocks], dim=1)
