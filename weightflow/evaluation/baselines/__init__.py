"""Baselines: each answers the same prompts with networks of its own.

A baseline is a function of what is known, the tasks and a seed; it returns stacked networks, or raises
`Inapplicable` with the reason. A new one is a function in a file here and a line in `BASELINES`.

`zoo_mean` and `nearest_prompt` take networks as they are. The others know which row stands for which
class, and pick and reorder rows for the prompt: the strongest form of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from canon.types import StateDict
from weightflow.batched import batch_norm
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.averages import mean_of_nearest, zoo_mean, zoo_mean_rows
from weightflow.evaluation.baselines.controls import random_text, shuffled_prompt
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.baselines.gaussian import gaussian, gaussian_pc
from weightflow.evaluation.baselines.generalist import generalist
from weightflow.evaluation.baselines.hypernetwork import hypernetwork
from weightflow.evaluation.baselines.noise import noise, noise_as_wide_as_the_zoo
from weightflow.evaluation.baselines.retrieval import nearest_prompt, nearest_rows
from weightflow.evaluation.baselines.ridge import nearest_class, ridge_rows
from weightflow.evaluation.context import EvaluationContext

__all__ = ["BASELINES", "EvaluationContext", "Inapplicable", "answer"]

Baseline = Callable[[EvaluationContext, Sequence[Task], int], StateDict]

BASELINES: dict[str, Baseline] = {
    "zoo_mean": zoo_mean,
    "zoo_mean_rows": zoo_mean_rows,
    "soup_16": partial(mean_of_nearest, networks=16),
    "interpolation": partial(mean_of_nearest, networks=2),
    "noise_0.01": partial(noise, size=0.01),
    "noise_0.02": partial(noise, size=0.02),
    "noise_0.03": partial(noise, size=0.03),
    "noise_as_wide_as_the_zoo": noise_as_wide_as_the_zoo,
    "gaussian": gaussian,
    "gaussian_pc": gaussian_pc,
    "gaussian_pc_0.6": partial(gaussian_pc, spread=0.6),
    "nearest_prompt": nearest_prompt,
    "nearest_rows": nearest_rows,
    "shuffled_prompt": shuffled_prompt,
    "random_text": random_text,
    "generalist": generalist,
    "hypernetwork": hypernetwork,
    "ridge_rows": ridge_rows,
    "nearest_class": nearest_class,
}


# the others look for each class by its name
OF_WHOLE_NETWORKS = ("zoo_mean", "nearest_prompt", "shuffled_prompt", "hypernetwork")


def answer(context: EvaluationContext, name: str, tasks: Sequence[Task], seed: int) -> StateDict:
    """The networks of a baseline, batch-norm statistics re-estimated from training examples."""
    if name not in OF_WHOLE_NETWORKS and any(
        len(own) > 1 for t in tasks for own in context.data.class_labels(t.classes)
    ):
        raise Inapplicable("it is about single classes, and these tasks have classes made of classes")
    state, zoo = BASELINES[name](context, tasks, seed), context.zoo
    return batch_norm.of_classes(zoo.architecture, state, zoo.dataset, [task.classes for task in tasks])
