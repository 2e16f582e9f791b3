"""The coordinates interface: an invertible map between stacked networks and the flow's variables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from canon.types import StateDict
from canon.validation import Invalid
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import Layout
from weightflow.representation.orbit_average import OrbitSymmetries

Z = Float[Tensor, "networks tokens width"]
Present = Bool[Tensor, "networks classes"]


@runtime_checkable
class Batches(Protocol):
    """A population that is not held in memory."""

    def __call__(self, every: int = 1) -> Iterator[tuple[StateDict, Present]]:
        """One walk over every `every`-th network: stacked networks, a shard or so at a time, and which logits they have."""
        ...


def used_entries(
    architecture: Architecture, layout: Layout, present: Present
) -> Bool[Tensor, "networks tokens width"]:
    """Which entries of a layout's tokens belong to a network with these logits."""
    distinct, which = present.unique(dim=0, return_inverse=True)  # networks of one task are alike
    if len(distinct) == 1:
        used = _used_entries_of_one(architecture, layout, tuple(distinct[0].cpu().tolist()), present.device)
        return used.expand(len(present), -1, -1)
    return _used_entries(architecture, layout, distinct)[which]


@lru_cache(maxsize=2)
def _used_entries_of_one(
    architecture: Architecture, layout: Layout, present: tuple[bool, ...], device: torch.device
) -> Bool[Tensor, "1 tokens width"]:
    return _used_entries(architecture, layout, torch.tensor([present]).to(device))


def _used_entries(
    architecture: Architecture, layout: Layout, present: Present
) -> Bool[Tensor, "networks tokens width"]:
    ones = {
        name: torch.ones(1, *shape, dtype=torch.bool, device=present.device).expand(len(present), *shape)
        for name, shape in architecture.shapes.items()
    }
    return layout.encode(pad_with_zeros(architecture, ones, present))


def require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """`Invalid` unless `tensors`, as a checkpoint kept them, are floating-point numbers of these shapes."""
    for name, shape in shapes.items():
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
            found = "missing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise Invalid(f"coordinates.{name} is {found}, expected numbers of shape {shape}")


class Coordinates(ABC):
    """`layout` is what the model sees: the shape of z and what its tokens stand for."""

    architecture: Architecture
    layout: Layout

    @classmethod
    @abstractmethod
    def fit(
        cls,
        architecture: Architecture,
        layout: Layout,
        batches: Batches,
        count: int,
        scaled: bool,
        exchange: OrbitSymmetries,
    ) -> Coordinates: ...

    @classmethod
    @abstractmethod
    def restore(
        cls, architecture: Architecture, layout: Layout, tensors: Mapping[str, Tensor]
    ) -> Coordinates: ...

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of them."""

    def to(self, device: torch.device) -> Coordinates:
        """The same coordinates, computed on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return self.restore(self.architecture, self.layout, moved)

    @abstractmethod
    def used(self, present: Present) -> Bool[Tensor, "networks tokens width"]:
        """Which entries of z belong to a network with these logits; the others are zero."""

    @abstractmethod
    def encode(self, state: StateDict, present: Present) -> Z:
        """Stacked networks to z; what is not used is zero."""

    @abstractmethod
    def decode(self, z: Z, present: Present) -> StateDict:
        """z to stacked networks, missing logits zero, in the architecture's own order."""
