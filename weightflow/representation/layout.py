"""Layout: the fixed map between a `state_dict` and a (tokens, width) matrix, and its exact inverse.

A layout is a list of blocks of tokens. A block lays pieces side by side: each piece is one tensor
with one axis brought to the front and cut into one row a token.

    units    a hidden unit is a token: its incoming weights, its bias and, where the layer after it
             is the last, its outgoing weights; what belongs to no unit is cut into rows
    rows     as `units`, but every class is a token too: its row of the last layer and its bias
    flat     the whole network is one token (DeepWeightFlow)
    blocks   every tensor is cut into chunks of equal length (Text2Weight, Tina)

Entries of a token beyond its pieces are zero and are masked out of every loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import ceil, prod
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from canon.errors import InputError
from canon.spec import PermutationSpec
from canon.validation import Invalid, boolean, integer, items, optional, record, shown, text
from weightflow.networks.architectures import Architecture
from weightflow.registry import pick


@dataclass(frozen=True)
class Piece:
    """One tensor inside a block: `axis` runs over the tokens, or None to cut the flat tensor into chunks.

    `counter`: whole numbers, exact in tokens of float32 up to 2 ** 24.
    """

    tensor: str
    axis: int | None
    shape: tuple[int, ...]
    width: int
    counter: bool = False


@dataclass(frozen=True)
class Block:
    """`tokens` rows, each the concatenation of its pieces. `kind` is 'units', 'classes' or 'chunks'."""

    name: str
    kind: str
    tokens: int
    pieces: tuple[Piece, ...]

    @cached_property
    def width(self) -> int:
        return sum(piece.width for piece in self.pieces)


@dataclass(frozen=True)
class Link:
    """Weights from the tokens of block `units` to those of block `rows`, by index.

    They begin at entry `start` of a row: (`before`, units, `after`) numbers, such as the positions of a kernel.
    """

    rows: int
    units: int
    start: int
    before: int
    count: int
    after: int

    def weights(self, tokens: Float[Tensor, "networks rows width"]) -> Float[Tensor, "networks rows units"]:
        """One weight from each unit to each row: the mean where there are several. `tokens` are of `rows`."""
        own = tokens[..., self.start : self.start + self.before * self.count * self.after]
        return own.unflatten(-1, (self.before, self.count, self.after)).mean((-3, -1))


@dataclass(frozen=True)
class Layout:
    """The map for one architecture. Immutable, stored with every run as `layout.json`.

    `links` say which entries of tokens are weights from which other tokens.
    """

    scheme: str
    blocks: tuple[Block, ...]
    links: tuple[Link, ...] = ()

    @cached_property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    @cached_property
    def width(self) -> int:
        return max(block.width for block in self.blocks)

    def encode(self, state: Mapping[str, Tensor]) -> Shaped[Tensor, "networks tokens width"]:
        """Stacked tensors (networks, *shape) to tokens; unused entries are zero."""
        blocks = []
        for block in self.blocks:
            pieces = [_cut(state[p.tensor], p, block.tokens) for p in block.pieces]
            rows = torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
            blocks.append(_padded(rows, self.width))
        return torch.cat(blocks, dim=1)  # a copy, also of a single block

    def decode(self, tokens: Float[Tensor, "networks tokens width"]) -> dict[str, Tensor]:
        """The exact inverse of `encode`: stacked tensors (networks, *shape), in the layout's order."""
        state = {}
        for block, rows in zip(
            self.blocks, tokens.split([b.tokens for b in self.blocks], dim=1), strict=True
        ):
            start = 0
            for piece in block.pieces:
                state[piece.tensor] = _join(rows[..., start : start + piece.width], piece)
                start += piece.width
        return state

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`Invalid` unless it lays out exactly these tensors, each once and whole."""
        pieces = [(block, piece) for block in self.blocks for piece in block.pieces]
        if sorted(piece.tensor for _, piece in pieces) != sorted(shapes):
            raise Invalid("the layout is not of the architecture's tensors")
        for block, piece in pieces:
            shape, axis = shapes[piece.tensor], piece.axis
            whole = axis is None or axis < len(shape)
            tokens, entries = (1, prod(shape)) if axis is None or not whole else (shape[axis], prod(shape))
            fits = block.tokens * piece.width >= entries if axis is None else block.tokens == tokens
            if axis is not None:
                fits = fits and piece.width * tokens == entries
            if not whole or not fits or piece.shape != shape:
                raise Invalid(f"the layout cuts {shown(piece.tensor)} into pieces that do not make it whole")
        for link in self.links:
            inside = link.rows < len(self.blocks) and link.units < len(self.blocks)
            end = link.start + link.before * link.count * link.after
            if not inside or end > self.blocks[link.rows].width:
                raise Invalid("the layout links tokens that are not there")

    def to_dict(self) -> dict[str, Any]:
        return {"format": "weightflow-layout-1", **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        if data.get("format") != "weightflow-layout-1":
            raise InputError(f"layout format {shown(data.get('format'))} is not known to this version")
        data = _CHECK(data)
        return cls(
            data["scheme"],
            tuple(
                Block(
                    b["name"],
                    b["kind"],
                    b["tokens"],
                    tuple(Piece(**{**p, "shape": tuple(p["shape"])}) for p in b["pieces"]),
                )
                for b in data["blocks"]
            ),
            tuple(Link(**link) for link in data.get("links", ())),
        )


_COUNT = integer(0, 2**40)
_CHECK = record(
    {
        "format": text(),
        "scheme": text(),
        "blocks": items(
            record(
                {
                    "name": text(),
                    "kind": text(),
                    "tokens": _COUNT,
                    "pieces": items(
                        record(
                            {
                                "tensor": text(),
                                "axis": optional(integer(0, 64)),
                                "shape": items(_COUNT, 64),
                                "width": _COUNT,
                            },
                            {"counter": boolean},
                        )
                    ),
                }
            )
        ),
    },
    {"links": items(record({f.name: _COUNT for f in fields(Link)}))},
)


def _cut(tensor: Tensor, piece: Piece, tokens: int) -> Tensor:
    networks = tensor.shape[0]
    if piece.axis is None:
        return _padded(tensor.reshape(networks, -1), tokens * piece.width).view(networks, tokens, piece.width)
    return tensor.movedim(piece.axis + 1, 1).reshape(networks, tokens, piece.width)


def _padded(rows: Tensor, width: int) -> Tensor:
    """Zeros behind the entries of the last axis; no copy where there are none to add."""
    missing = width - rows.shape[-1]
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows


def _join(rows: Tensor, piece: Piece) -> Tensor:
    networks = rows.shape[0]
    rows = rows.round().long() if piece.counter else rows
    if piece.axis is None:
        return rows.reshape(networks, -1)[:, : prod(piece.shape)].reshape(networks, *piece.shape)
    others = [size for axis, size in enumerate(piece.shape) if axis != piece.axis]
    return rows.reshape(networks, piece.shape[piece.axis], *others).movedim(1, piece.axis + 1).contiguous()


def _axis_piece(name: str, shape: tuple[int, ...], axis: int) -> Piece:
    return Piece(name, axis, shape, prod(shape) // shape[axis])


def _chunks(name: str, shape: tuple[int, ...], width: int) -> Block:
    size = prod(shape)
    return Block(name, "chunks", max(1, ceil(size / width)), (Piece(name, None, shape, min(width, size)),))


def _plain_group(spec: PermutationSpec, name: str, axis: int) -> str | None:
    """The group whose units are exactly the entries of this axis, or None."""
    segments = spec.axes[name][axis].segments
    if len(segments) == 1 and len(segments[0]) == 1:
        return segments[0][0].group
    return None


def _owner(architecture: Architecture, name: str, class_tokens: bool) -> tuple[str, str, int] | None:
    """(kind, block, axis) of the tokens that own a tensor: its output units first, then its inputs."""
    if class_tokens and name in architecture.class_axes:
        return "classes", "classes", architecture.class_axes[name]
    for axis in range(len(architecture.shapes[name])):
        group = _plain_group(architecture.spec, name, axis)
        if group is not None:
            return "units", group, axis
    return None


def _by_units(architecture: Architecture, width: int, class_tokens: bool) -> tuple[Block, ...]:
    pieces: dict[tuple[str, str], list[Piece]] = {}
    rest = []
    for name, shape in architecture.shapes.items():
        owner = _owner(architecture, name, class_tokens)
        if owner is None:
            rest.append(_chunks(name, shape, width))
        else:
            kind, block, axis = owner
            pieces.setdefault((kind, block), []).append(_axis_piece(name, shape, axis))
    owned = [
        Block(name, kind, own[0].shape[own[0].axis or 0], tuple(own)) for (kind, name), own in pieces.items()
    ]
    return (*owned, *rest)


def _units(architecture: Architecture, width: int) -> tuple[Block, ...]:
    return _by_units(architecture, width, class_tokens=False)


def _rows(architecture: Architecture, width: int) -> tuple[Block, ...]:
    return _by_units(architecture, width, class_tokens=True)


def _flat(architecture: Architecture, width: int) -> tuple[Block, ...]:
    pieces = tuple(Piece(n, None, shape, prod(shape)) for n, shape in architecture.shapes.items())
    return (Block("network", "chunks", 1, pieces),)


def _blocks(architecture: Architecture, width: int) -> tuple[Block, ...]:
    return tuple(_chunks(name, shape, width) for name, shape in architecture.shapes.items())


SCHEMES: dict[str, Callable[[Architecture, int], tuple[Block, ...]]] = {
    "units": _units,
    "rows": _rows,
    "flat": _flat,
    "blocks": _blocks,
}


def make_layout(architecture: Architecture, scheme: str = "units", width: int = 576) -> Layout:
    """Lay out an architecture; `width` is the chunk length of what is cut into chunks."""
    blocks = pick(SCHEMES, scheme, "layout")(architecture, width)
    marked = tuple(_mark_counters(block, architecture.counters) for block in blocks)
    return Layout(scheme, marked, tuple(_links(architecture, marked)))


def _links(architecture: Architecture, blocks: Sequence[Block]) -> Iterator[Link]:
    """Of every tensor that units or classes own by one axis, and whose other axis is the units of a block."""
    of_group = {block.name: index for index, block in enumerate(blocks) if block.kind == "units"}
    for index, block in enumerate(blocks):
        start = 0
        for piece in block.pieces:
            others = [axis for axis in range(len(piece.shape)) if axis != piece.axis]
            for place, axis in enumerate(others):
                group = _plain_group(architecture.spec, piece.tensor, axis)
                if piece.axis is not None and group in of_group:
                    sizes = [piece.shape[a] for a in others]
                    before, after = prod(sizes[:place]), prod(sizes[place + 1 :])
                    yield Link(index, of_group[group], start, before, sizes[place], after)
            start += piece.width


def _mark_counters(block: Block, counters: frozenset[str]) -> Block:
    return replace(block, pieces=tuple(replace(p, counter=p.tensor in counters) for p in block.pieces))
