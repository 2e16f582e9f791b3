r"""Gaussians fitted to the aligned zoo: each weight by itself, or with all their covariances.

With n networks x_i of mean m, the sample m + sum_i z_i (x_i - m) / sqrt(n), z ~ N(0, 1), has exactly
their covariance: it is the Gaussian in the principal components, without computing them. Rows of classes
that a network lacks count as the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext, summed


def gaussian(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """Every weight drawn by itself, with its own mean and deviation over the zoo."""
    generator, drawn = torch.Generator().manual_seed(seed), {}
    squares = summed({n: t.square() for n, t in found.items()} for _, found in _deviations(context))
    for name, square in squares.items():
        std = (square / context.count[name].clamp(min=1)).sqrt()
        drawn[name] = std * torch.randn(len(tasks), *std.shape, generator=generator)
    return _around_the_mean(context, tasks, drawn)


def gaussian_pc(
    context: EvaluationContext, tasks: Sequence[Task], seed: int, spread: float = 1.0
) -> StateDict:
    """The Gaussian of the zoo's mean and covariance, its deviations multiplied by `spread`."""
    z = torch.randn(len(tasks), len(context.rows), generator=torch.Generator().manual_seed(seed))
    z *= spread / len(context.rows) ** 0.5

    drawn = summed(
        {n: (z[:, positions] @ t.flatten(1)).view(1, len(tasks), *t.shape[1:]) for n, t in found.items()}
        for positions, found in _deviations(context)
    )
    return _around_the_mean(context, tasks, drawn)


def _deviations(context: EvaluationContext) -> Iterator[tuple[Tensor, StateDict]]:
    """Training networks less their mean, wide, a part at a time, with their positions."""
    for positions, wide in context.parts():
        used = context.used_at(positions.tolist())
        yield (
            positions,
            {n: (t - context.mean[n]) * used[n] for n, t in wide.items() if t.is_floating_point()},
        )


def _around_the_mean(context: EvaluationContext, tasks: Sequence[Task], drawn: StateDict) -> StateDict:
    wide = {
        name: (mean + drawn[name] if name in drawn else mean).expand(len(tasks), *mean.shape).clone()
        for name, mean in context.mean.items()
    }
    return gather_classes(context.zoo.architecture, wide, tasks)
