"""Augmentation: random equivalent forms of the networks, redrawn at every training step.

    permute_units    hidden units of each network in a random order (Text2Weight, arXiv:2508.13633)
    permute_classes  classes in a random order: prompt, labels and rows together (Tina, arXiv:2405.14132)

Both relabel entries of the tokens. The coordinates are then fitted alike for all entries that may
trade places, so that relabelling is linear in z and acts on noise as it acts on networks. That is what
the equivariance term needs: the model of relabelled tokens against its relabelled answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from canon.actions import permutation
from canon.actions.permutation import Permutation
from canon.errors import InputError
from weightflow.batched.class_axes import index_class_axes
from weightflow.flow.draws import NoiseDraws
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import Layout
from weightflow.text import PromptBatch
from weightflow.training.batch import Batch


@dataclass(frozen=True)
class AugmentConfig:
    """`equivariance`: weight of the mean of |model(P x_t) - P model(x_t)|^2 over random relabellings P
    of hidden units; 0 switches it off."""

    permute_units: bool = False
    permute_classes: bool = False
    equivariance: float = 0.0

    def __post_init__(self) -> None:
        if self.equivariance < 0:
            raise InputError(
                f"setting 'augment.equivariance' is {self.equivariance}; it must not be negative"
            )


class UnitRelabelling:
    """Random relabellings of hidden units, acting on tokens in the coordinates of the flow."""

    def __init__(self, architecture: Architecture, layout: Layout) -> None:
        """`InputError` where the architecture has no hidden units to relabel."""
        if not architecture.spec.groups:
            raise InputError(
                f"architecture '{architecture.name}' has no hidden units to permute; "
                "set augment.permute_units=false and augment.equivariance=0"
            )
        self._spec, self._layout = architecture.spec, _of_coordinates(layout)

    def draw(self, networks: int, draws: NoiseDraws) -> Permutation:
        drawn = permutation.random(self._spec, draws.generator, (networks * draws.processes,))
        return {name: draws.own(order) for name, order in drawn.items()}

    def __call__(self, z: Tensor, relabelling: Permutation) -> Tensor:
        """Tokens (networks, tokens, width) of the relabelled networks."""
        moved = permutation.apply_unchecked(self._spec, relabelling, self._layout.decode(z))
        return self._layout.encode(moved)


class Augmentation:
    """The sequence of augmentations of a configuration."""

    def __init__(self, config: AugmentConfig, architecture: Architecture, layout: Layout) -> None:
        self._architecture, self._layout = architecture, layout
        self.units: UnitRelabelling | None = None
        self._steps: list[Callable[[Batch, NoiseDraws], Batch]] = []
        if config.permute_units or config.equivariance:
            self.units = UnitRelabelling(architecture, layout)
        if config.permute_classes:
            self._steps.append(self._permute_classes)
        if config.permute_units:
            self._steps.append(self._permute_units)

    def __call__(self, batch: Batch, draws: NoiseDraws) -> Batch:
        for step in self._steps:
            batch = step(batch, draws)
        return batch

    def _permute_units(self, batch: Batch, draws: NoiseDraws) -> Batch:
        assert self.units is not None
        return replace(batch, z=self.units(batch.z, self.units.draw(len(batch), draws)))

    def _permute_classes(self, batch: Batch, draws: NoiseDraws) -> Batch:
        return reorder_classes(
            self._architecture, self._layout, batch, random_order(batch.prompts.present, draws)
        )


def random_order(present: Tensor, draws: NoiseDraws) -> Tensor:
    """For each prompt (prompts, classes) a random order of its classes; the missing stay at the end."""
    drawn = draws.uniform(*present.shape)
    return torch.where(present, drawn, 2.0).argsort(dim=1)


def reorder_classes(architecture: Architecture, layout: Layout, batch: Batch, order: Tensor) -> Batch:
    """Class i of each network is what was class order[i]: in its prompt, its labels and its weights."""
    prompts = batch.prompts
    present = prompts.present.gather(1, order)
    vectors = torch.take_along_dim(prompts.vectors, order.unsqueeze(-1), dim=1)
    rows = torch.where(present, order, -1)
    tokens = _of_coordinates(layout)
    z = tokens.encode(index_class_axes(architecture, tokens.decode(batch.z), rows))
    moved = order.argsort(dim=1).gather(1, batch.labels.clamp(min=0))
    return Batch(z, PromptBatch(vectors, present), torch.where(batch.labels >= 0, moved, -1))


def _of_coordinates(layout: Layout) -> Layout:
    """The layout without counters: it rounds them, but in coordinates they are numbers like all others."""
    return replace(
        layout,
        blocks=tuple(
            replace(block, pieces=tuple(replace(piece, counter=False) for piece in block.pieces))
            for block in layout.blocks
        ),
    )
