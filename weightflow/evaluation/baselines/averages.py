"""Means of trained networks in their common frame: soups and midpoints (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.retrieval import best_known
from weightflow.evaluation.context import EvaluationContext


def zoo_mean(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The mean of the aligned networks as they are, each logit the mean of that logit."""
    means = {n: t.mean(0) if t.is_floating_point() else t[0] for n, t in context.state.items()}
    return {name: t.expand(len(tasks), *t.shape).clone() for name, t in means.items()}


def zoo_mean_rows(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The mean of the aligned zoo with one mean row a class, put together for the classes asked for."""
    wide = {name: t.expand(len(tasks), *t.shape).clone() for name, t in context.mean.items()}
    return gather_classes(context.zoo.architecture, wide, tasks)


def mean_of_nearest(context: EvaluationContext, tasks: Sequence[Task], seed: int, networks: int) -> StateDict:
    """The mean of the `networks` that know most of the classes, each row over those that know its class.

    Of one task, as in an unconditional zoo, these are random ones.
    """
    chosen = torch.zeros(len(tasks), len(context.rows))
    chosen.scatter_(1, best_known(context, tasks, networks, seed), 1.0)
    wide = {}
    for name, tensor in context.wide.items():
        if not tensor.is_floating_point():
            wide[name] = tensor[:1].expand(len(tasks), *tensor.shape[1:]).clone()
            continue
        total, count = (chosen @ t.flatten(1) for t in (tensor, context.used[name]))
        wide[name] = (total / count.clamp(min=1)).view(len(tasks), *tensor.shape[1:])
    return gather_classes(context.zoo.architecture, wide, tasks)
