r"""Message passing along the generated network's own edges: a weight from unit u to row r connects their
tokens.

With E (rows, units) the weights from the tokens of one block (units) to those of the next (rows),

    h_r += A(sum_u E_ru h_u) / sqrt(units)        h_u += B(sum_r E_ru h_r) / sqrt(rows)

E is that of the noisy network between the layers of the model, and that of the predicted network at the end, from the
last layer of the network to the first. A stationary point of training with weight decay has this form: the incoming
weights of a unit are a sum over what reads it, weighted by how much it is read. So the rows of the classes that noise
suggests decide which features a network has, and networks of one prompt differ as trained ones do.

Rows of classes begin at the noisy ones, times a learned gain: without it noise has no say at first, and a model that
is trained by what networks do learns to ignore it.

Graph networks on weights: Kofinas et al. 2024, arXiv:2403.12143; Lim et al. 2024, arXiv:2312.04501.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from weightflow.representation.layout import Layout

Hidden = Float[Tensor, "batch tokens hidden"]


class Edges(nn.Module):
    """The exchange after one layer of a model, in both directions of every link."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_units = nn.ModuleList(nn.Linear(width, width) for _ in layout.links)
        self.to_rows = nn.ModuleList(nn.Linear(width, width) for _ in layout.links)

    def forward(self, h: Hidden, x: Float[Tensor, "batch tokens width"]) -> Hidden:
        """`h` after the exchange over the weights of the network `x`."""
        parts, normed = list(_split(self.layout, h)), _split(self.layout, self.norm(h))
        tokens = _split(self.layout, x)
        for link, to_units, to_rows in zip(self.layout.links, self.to_units, self.to_rows, strict=True):
            weights = link.weights(tokens[link.rows])
            parts[link.units] = parts[link.units] + _backward(weights, to_units(normed[link.rows]))
            parts[link.rows] = parts[link.rows] + _forward(weights, to_rows(normed[link.units]))
        return torch.cat(parts, dim=1)


class LastEdges(nn.Module):
    """Predicted rows tell the units that they read which features they want, the last layer first."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        # links from a group to itself are left out: they have no direction
        self.layout = layout
        self.links = tuple(link for link in reversed(layout.links) if link.rows != link.units)
        self.of_classes = [link for link in layout.links if layout.blocks[link.rows].kind == "classes"]
        self.gain = nn.Parameter(torch.ones(len(self.of_classes)))
        self.message = nn.ModuleList(nn.Linear(width, width) for _ in self.links)
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in self.links
        )

    def forward(
        self, h: Hidden, x_t: Tensor, decoders: Sequence[nn.Module], present: Bool[Tensor, "batch classes"]
    ) -> list[Tensor]:
        """Decoded rows of each block (batch, tokens, width of the block).

        Rows of classes that are not `present` are masked; where none is present, none is masked.
        """
        here = present | ~present.any(dim=1, keepdim=True)
        parts, tokens = list(_split(self.layout, h)), _split(self.layout, x_t)
        given: dict[int, Tensor] = {}
        for link, gain in zip(self.of_classes, self.gain, strict=True):
            before, end = link.start, link.start + link.before * link.count * link.after
            own = F.pad(
                tokens[link.rows][..., before:end], (before, self.layout.blocks[link.rows].width - end)
            )
            given[link.rows] = given.get(link.rows, 0) + gain * own

        def decoded(block: int) -> Tensor:
            rows: Tensor = decoders[block](parts[block])
            return rows + given[block] if block in given else rows

        for link, message, mix in zip(self.links, self.message, self.mix, strict=True):
            weights = link.weights(decoded(link.rows))
            if self.layout.blocks[link.rows].kind == "classes":
                weights = weights * here.unsqueeze(-1)
            told, own = _backward(weights, message(parts[link.rows])), parts[link.units]
            parts[link.units] = own + told + mix(torch.cat([own, told], dim=-1))
        return [decoded(block) for block in range(len(parts))]


def _split(layout: Layout, x: Tensor) -> tuple[Tensor, ...]:
    return x.split([block.tokens for block in layout.blocks], dim=1)


def _forward(weights: Tensor, units: Tensor) -> Tensor:
    return weights @ units / weights.shape[2] ** 0.5


def _backward(weights: Tensor, rows: Tensor) -> Tensor:
    return weights.mT @ rows / weights.shape[1] ** 0.5
