r"""Principal components of the flat network; the basis is combinations of the training networks.

With centred networks R (networks, entries), R R^T = U S^2 U^T gives the directions V = S^{-1} U^T R
without ever forming a matrix of entries by entries (the Gram trick). Networks come batch by batch: one
walk for the mean, one a group of batches for the Gram matrix, one for the directions, so that memory is
bounded by two groups and the directions. Where networks outnumber entries, the covariance of the entries is the
smaller matrix and is used instead. Of more than `MOST` networks evenly spaced ones decide the directions, and all the mean.

A zoo of n networks spans n - 1 components: what the flow makes of them stays inside that span
(DeepWeightFlow, arXiv:2601.05052, in its released configuration).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.networks.architectures import Architecture
from weightflow.representation.base import Batches, Coordinates, Present, Z, require_shapes, used_entries
from weightflow.representation.layout import Block, Layout, Piece, make_layout
from weightflow.representation.orbit_average import OrbitSymmetries

# Directions along which the population has less than this share of its largest spread are rounding.
SMALLEST = 1e-5
MOST, MOST_BYTES = 4096, 2**35
"""Networks of a Gram matrix, and their size, at most: it and the walks over them grow with the square."""
GROUP = 2**28
"""Bytes of networks that are compared with each other at once."""


@dataclass(frozen=True)
class Components(Coordinates):
    """z (networks, 1, k): coordinates along `directions` (k, entries) over `scale` (k,)."""

    architecture: Architecture
    flat: Layout
    mean: Float[Tensor, " entries"]
    directions: Float[Tensor, "k entries"]
    scale: Float[Tensor, " k"]

    @property
    def layout(self) -> Layout:  # type: ignore[override]
        count = len(self.scale)
        return Layout(
            "components", (Block("components", "chunks", 1, (Piece("components", None, (count,), count),)),)
        )

    @classmethod
    def fit(
        cls,
        architecture: Architecture,
        layout: Layout,
        batches: Batches,
        count: int,
        scaled: bool,
        exchange: OrbitSymmetries,
    ) -> Components:
        flat = make_layout(architecture, "flat")
        mean, networks = _mean(architecture, flat, batches)
        if networks < 3:
            raise InputError(f"components need three networks or more to be found from; there are {networks}")

        by_gram = networks <= len(mean)
        most = max(4 * count, min(MOST, MOST_BYTES // mean.nbytes))
        every = -(-networks // most) if by_gram else 1
        networks = -(-networks // every)

        def centred() -> Iterator[Tensor]:
            for state, present in batches(every):
                yield _rows(architecture, flat, state, present, mean)

        spread, directions = _by_gram(centred) if by_gram else _by_covariance(centred)
        kept = (spread > SMALLEST * spread[0]).nonzero().squeeze(1)[: min(count, networks - 1)]
        scale = spread[kept] / networks**0.5 if scaled else torch.ones(len(kept))
        return cls(architecture, flat, mean, directions(kept), scale.to(mean.dtype))

    @classmethod
    def restore(cls, architecture: Architecture, layout: Layout, tensors: Mapping[str, Tensor]) -> Components:
        flat = make_layout(architecture, "flat")
        count = len(tensors["scale"])
        require_shapes(tensors, {"mean": (flat.width,), "directions": (count, flat.width), "scale": (count,)})
        return cls(architecture, flat, tensors["mean"], tensors["directions"], tensors["scale"])

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "directions": self.directions, "scale": self.scale}

    def used(self, present: Present) -> Bool[Tensor, "networks tokens width"]:
        return torch.ones(len(present), 1, len(self.scale), dtype=torch.bool, device=present.device)

    def encode(self, state: StateDict, present: Present) -> Z:
        rows = _rows(self.architecture, self.flat, state, present, self.mean)
        return (rows @ self.directions.T / self.scale).unsqueeze(1)

    def decode(self, z: Z, present: Present) -> StateDict:
        rows = torch.addmm(self.mean, z.squeeze(1) * self.scale, self.directions)
        state = self.flat.decode(rows.unsqueeze(1))
        return pad_with_zeros(self.architecture, state, present)


def _rows(
    architecture: Architecture, flat: Layout, state: StateDict, present: Present, mean: Tensor
) -> Tensor:
    """Flat networks less the mean, (networks, entries); entries of missing logits are zero."""
    return flat.encode(state).sub_(mean).mul_(used_entries(architecture, flat, present)).squeeze(1)


def _mean(architecture: Architecture, flat: Layout, batches: Batches) -> tuple[Tensor, int]:
    """The mean of each entry over the networks that have it, and how many networks there are."""
    total, number, networks = torch.zeros(flat.width), torch.zeros(flat.width), 0
    for state, present in batches():
        used = used_entries(architecture, flat, present).squeeze(1)
        total += flat.encode(state).squeeze(1).mul_(used).sum(0)
        number += used.sum(0, dtype=number.dtype)
        networks += len(present)
    return total / number.clamp(min=1), networks


# Singular values, largest first, and a function from their kept indices to directions (k, entries).
Decomposition = tuple[Tensor, Callable[[Tensor], Tensor]]


def _by_gram(centred: Callable[[], Iterator[Tensor]]) -> Decomposition:
    # float64: eigenvalues are squares, and small ones drown in float32
    blocks = [torch.cat([_product(a, b) for b in _grouped(centred())], dim=1) for a in _grouped(centred())]
    values, vectors = torch.linalg.eigh(torch.cat(blocks))
    spread, u = values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)

    def directions(kept: Tensor) -> Tensor:
        weights, start, found = (u[:, kept] / spread[kept]).float(), 0, torch.zeros(())
        for rows in centred():
            found = found + weights[start : start + len(rows)].T @ rows
            start += len(rows)
        return found

    return spread, directions


def _grouped(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Consecutive batches of rows as one, up to `GROUP` bytes: every pair of groups is one read of the second."""
    group: list[Tensor] = []
    for rows in batches:
        if group and sum(part.nbytes for part in group) + rows.nbytes > GROUP:
            yield torch.cat(group)
            group = []
        group.append(rows)
    yield torch.cat(group)


def _by_covariance(centred: Callable[[], Iterator[Tensor]]) -> Decomposition:
    scatter = torch.zeros((), dtype=torch.float64)
    for rows in centred():
        scatter = scatter + _product(rows.T, rows.T)
    values, vectors = torch.linalg.eigh(scatter)
    return values.flip(0).clamp(min=0).sqrt(), lambda kept: vectors.flip(1)[:, kept].T.float().contiguous()


def _product(a: Tensor, b: Tensor, columns: int = 2**16) -> Tensor:
    """a b^T in float64, some columns at a time: a copy of all of them would be twice as large."""
    pairs = zip(a.split(columns, dim=1), b.split(columns, dim=1), strict=True)
    return torch.stack([x.double() @ y.double().T for x, y in pairs]).sum(0)
