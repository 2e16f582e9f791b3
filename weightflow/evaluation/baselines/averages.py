"""Means of trained networks in their common frame: soups and midpoints (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.retrieval import best_known
from weightflow.evaluation.context import EvaluationContext, summed


def zoo_mean(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The mean of the aligned networks as they are, each logit the mean of that logit."""
    total = summed(state for _, state in context.zoo.by_shard(context.rows))
    mean = {name: t / len(context.rows) if t.is_floating_point() else t for name, t in total.items()}
    return {name: t.expand(len(tasks), *t.shape).clone() for name, t in mean.items()}


def zoo_mean_rows(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The mean of the aligned zoo with one mean row a class, put together for the classes asked for."""
    wide = {name: t.expand(len(tasks), *t.shape).clone() for name, t in context.mean.items()}
    return gather_classes(context.zoo.architecture, wide, tasks)


def mean_of_nearest(context: EvaluationContext, tasks: Sequence[Task], seed: int, networks: int) -> StateDict:
    """The mean of the `networks` that know most of the classes, each row over those that know its class.

    Of one task, as in an unconditional zoo, these are random ones.
    """
    means = [
        _mean(context.picked_wide(nearest), context.used_at(nearest))
        for nearest in best_known(context, tasks, networks, seed).tolist()
    ]
    wide = {name: torch.stack([mean[name] for mean in means]) for name in means[0]}
    return gather_classes(context.zoo.architecture, wide, tasks)


def _mean(wide: StateDict, used: StateDict) -> StateDict:
    """Mean of wide networks, each class's rows over those that know it."""
    return {
        name: t.sum(0) / used[name].sum(0).clamp(min=1) if t.is_floating_point() else t[0]
        for name, t in wide.items()
    }
