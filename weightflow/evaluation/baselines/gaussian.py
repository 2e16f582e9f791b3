r"""Gaussians fitted to the aligned zoo: each weight by itself, or with all their covariances.

With n networks x_i of mean m, the sample m + sum_i z_i (x_i - m) / sqrt(n), z ~ N(0, 1), has exactly
their covariance: it is the Gaussian in the principal components, without computing them. Rows of classes
that a network lacks count as the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext


def gaussian(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """Every weight drawn by itself, with its own mean and deviation over the zoo."""
    generator = torch.Generator().manual_seed(seed)

    def draw(deviation: Tensor, used: Tensor) -> Tensor:
        std = (deviation.square().sum(0) / used.sum(0).clamp(min=1)).sqrt()
        return std * torch.randn(len(tasks), *std.shape, generator=generator)

    return _around_the_mean(context, tasks, draw)


def gaussian_pc(
    context: EvaluationContext, tasks: Sequence[Task], seed: int, spread: float = 1.0
) -> StateDict:
    """The Gaussian of the zoo's mean and covariance, its deviations multiplied by `spread`."""
    z = torch.randn(len(tasks), len(context.rows), generator=torch.Generator().manual_seed(seed))
    z *= spread / len(context.rows) ** 0.5

    def draw(deviation: Tensor, used: Tensor) -> Tensor:
        return (z @ deviation.flatten(1)).view(len(tasks), *deviation.shape[1:])

    return _around_the_mean(context, tasks, draw)


def _around_the_mean(
    context: EvaluationContext, tasks: Sequence[Task], draw: Callable[[Tensor, Tensor], Tensor]
) -> StateDict:
    wide = {}
    for name, tensor in context.wide.items():
        mean, used = context.mean[name], context.used[name]
        drawn = draw((tensor - mean) * used, used) if tensor.is_floating_point() else 0
        wide[name] = (mean + drawn).expand(len(tasks), *mean.shape).clone()
    return gather_classes(context.zoo.architecture, wide, tasks)
