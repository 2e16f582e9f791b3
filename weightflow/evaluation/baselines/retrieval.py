"""Retrieval: answer with a training network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.text import Prompt

MOST_TASKS = 2**12
"""Tasks of training networks whose class vectors are in memory at once."""


def nearest_prompt(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The training network whose prompt, as an ordered list of as many classes, is nearest in text."""
    asked = _text(context, tasks)
    parts = [context.tasks[i : i + MOST_TASKS] for i in range(0, len(context.tasks), MOST_TASKS)]
    distance = torch.cat([torch.cdist(asked, _text(context, part)) for part in parts], dim=1)
    sizes, own = (torch.tensor([len(t.classes) for t in ts]) for ts in (tasks, context.tasks))
    distance[sizes.unsqueeze(1) != own] = torch.inf
    if context.one_task:  # every network answers every prompt: one at random for each
        distance = torch.rand(distance.shape, generator=torch.Generator().manual_seed(seed))
    index = distance.argmin(dim=1)
    return context.picked(index.tolist())


def nearest_rows(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The training network that knows most of the classes asked for, its rows picked and reordered.

    The strongest retrieval: where some training task includes all the classes, this is a trained
    network.
    """
    index = best_known(context, tasks, 1, seed).squeeze(1)
    wide = context.picked_wide(index.tolist())
    return gather_classes(context.zoo.architecture, wide, tasks)


def best_known(
    context: EvaluationContext, tasks: Sequence[Task], count: int, seed: int
) -> Int[Tensor, "tasks count"]:
    """For each task the `count` training networks that know most of its classes.

    Of those with as many, the ones with fewer others; then chance decides.
    """
    wanted, has = context.classes_of(tasks).double(), context.has_class.double()
    score = wanted @ has.T - has.sum(1) / 1000
    score += 1e-6 * torch.rand(score.shape, generator=torch.Generator().manual_seed(seed))
    return score.topk(min(count, len(has)), dim=1).indices


def _text(context: EvaluationContext, tasks: Sequence[Task]) -> Tensor:
    return context.flow.prompts([Prompt(task.classes) for task in tasks]).vectors.flatten(1)
