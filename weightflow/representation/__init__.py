"""Coordinates in which the flow runs. A new kind is one file here and one line in `KINDS`.

tokens       the layout's tokens, less the zoo's mean, over one scale a tensor
components   principal components of the flat network: one token for the whole of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from canon.errors import InputError
from weightflow.networks.architectures import Architecture
from weightflow.registry import pick
from weightflow.representation.base import Batches, Coordinates, used_entries
from weightflow.representation.layout import Layout
from weightflow.representation.orbit_average import OrbitSymmetries
from weightflow.representation.principal_components import Components
from weightflow.representation.standardized_tokens import Tokens

__all__ = ["Batches", "Coordinates", "CoordinatesConfig", "fit", "restore", "used_entries"]

KINDS: dict[str, type[Coordinates]] = {"tokens": Tokens, "components": Components}


@dataclass(frozen=True)
class CoordinatesConfig:
    """`kind` tokens or components; `count` components at most, one fewer than the networks at most.

    `scaled`: every tensor, or every component, has spread 1, so that noise of spread 1 fits it. Without
    it coordinates keep the units of the weights, and tokens their mean.
    """

    kind: str = "tokens"
    count: int = 99
    scaled: bool = True

    def __post_init__(self) -> None:
        pick(KINDS, self.kind, "kind of coordinates")
        if self.count < 1:
            raise InputError(f"setting 'coordinates.count' is {self.count}; it must be at least 1")


def fit(
    config: CoordinatesConfig,
    architecture: Architecture,
    layout: Layout,
    batches: Batches,
    exchange: OrbitSymmetries = OrbitSymmetries(),
) -> Coordinates:
    """Coordinates of a population, which is walked through batch by batch and never held whole.

    Entries that may trade places share one mean.
    """
    return KINDS[config.kind].fit(architecture, layout, batches, config.count, config.scaled, exchange)


def restore(
    config: CoordinatesConfig, architecture: Architecture, layout: Layout, tensors: Mapping[str, Tensor]
) -> Coordinates:
    """The coordinates whose `tensors` a checkpoint kept."""
    return KINDS[config.kind].restore(architecture, layout, tensors)
