"""Ensembles of generated networks beside ensembles of trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Spread, evaluate_ensembles
from weightflow.text import Prompt

SIZES = (10, 100)
# numbers held at once: a hundred networks of two million parameters
BUDGET = 2 * 10**8


def ensembles(context: EvaluationContext, tasks: Sequence[Task], seed: int, most: int = 6) -> dict[str, Any]:
    """Accuracy of ensembles that average probabilities, and of single networks, on the same tasks.

    The zoo's ensembles are of training networks that know all the classes, their rows picked for the
    task. Tasks that more of them know come first.
    """
    combinations = list({frozenset(task.classes): task for task in tasks}.values())
    known_by = networks_that_know(context, combinations)
    order = known_by.sum(1).argsort(descending=True, stable=True)[:most].tolist()
    networks = max(1, min(max(SIZES), BUDGET // context.zoo.architecture.parameters))
    rows: dict[str, dict[int, list[float]]] = {"generated": {}, "zoo": {}}
    for place, row in enumerate(order):
        task = combinations[row]
        seeds = range(seed + place * networks, seed + (place + 1) * networks)
        generated = context.flow.sample_states([Prompt(task.classes)] * networks, seeds, context.config)
        found = {"generated": generated}
        theirs = known_by[row].nonzero().squeeze(1)[:networks]
        if len(theirs):
            found["zoo"] = picked(context, theirs, task)
        for name, state in found.items():
            for size, value in _accuracies(context, state, task).items():
                rows[name].setdefault(size, []).append(value)
    return {
        "tasks": len(order),
        **{
            name: {str(size): _figure(sizes.get(size)) for size in (1, *SIZES)}
            for name, sizes in rows.items()
        },
    }


def networks_that_know(context: EvaluationContext, tasks: Sequence[Task]) -> Bool[Tensor, "tasks networks"]:
    """Which training networks know all the classes of each task."""
    return context.classes_of(tasks).double() @ (~context.has_class).double().T == 0


def picked(context: EvaluationContext, rows: Tensor, task: Task) -> StateDict:
    """Training networks, their rows picked and reordered for a task."""
    wide = context.picked_wide(rows.tolist())
    return gather_classes(context.zoo.architecture, wide, [task] * len(rows))


def _accuracies(context: EvaluationContext, state: StateDict, task: Task) -> dict[int, float]:
    """By size; size 1 is the mean over single networks."""
    count = len(next(iter(state.values())))
    alone = [
        evaluate_ensembles(context.zoo.architecture, {n: t[i : i + 1] for n, t in state.items()}, task, [1])[
            1
        ]
        for i in range(min(count, 20))
    ]
    return {1: sum(alone) / len(alone), **evaluate_ensembles(context.zoo.architecture, state, task, SIZES)}


def _figure(values: list[float] | None) -> dict[str, Any]:
    if values is None:
        return {"mean": None, "std": None, "interval": None, "reason": "too few networks know a whole task"}
    return {**Spread.of(torch.tensor(values)).to_dict(), "tasks": len(values)}
