"""Generalist: one network of the same size for all known classes; each prompt selects its rows.

What a user would do without a generator: train once, on everything. Where networks are large enough for all
classes, it is as good as a network for each task; where they are not, it is what specialists are measured
against. It is trained as the zoo's networks were, for as many more steps as it has more classes, from three
seeds, and kept beside the zoo. A zoo of branches has its base trained in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import torch

from canon.io import checkpoint
from canon.types import StateDict
from weightflow import config
from weightflow.batched.class_axes import gather_classes, scatter_classes, with_num_classes
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.context import EvaluationContext
from weightflow.zoo.builders.file_lock import holding

FILE = "generalist.safetensors"
NETWORKS = 3
# beyond every seed of a zoo's own networks and of its base
SEED = 2**20 - 8


def generalist(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """For each task the rows of its classes, from each of the generalists in turn."""
    if context.one_task:
        raise Inapplicable("all networks have one task, so that each of them is a generalist")
    classes = _known_classes(context)
    strange = sorted({name for task in tasks for name in task.classes} - set(classes))
    if strange:
        raise Inapplicable(f"it has rows for known classes alone, not for '{strange[0]}'")
    task = Task(context.zoo.dataset, classes)
    wide_architecture = with_num_classes(context.zoo.architecture, len(classes))
    trained = trained_generalists(context, task)
    wide = scatter_classes(wide_architecture, trained, [task] * NETWORKS)
    chosen = (torch.arange(len(tasks)) + seed) % NETWORKS
    return gather_classes(context.zoo.architecture, {n: t[chosen] for n, t in wide.items()}, tasks)


def trained_generalists(context: EvaluationContext, task: Task) -> StateDict:
    """Networks of all classes of `task`, stacked; trained where they are not beside the zoo yet."""
    recipe = generalist_recipe(context)
    path, made_by = context.zoo.path / FILE, _digest(recipe, task)
    with holding(context.zoo.path / ".locks" / "generalist", wait=True):
        if path.exists() and (found := checkpoint.read(path)).metadata.get("made_by") == made_by:
            return dict(found.state)
        state = train_many(
            with_num_classes(context.zoo.architecture, len(task.classes)),
            context.data,
            [task] * NETWORKS,
            range(SEED, SEED + NETWORKS),
            recipe,
        ).state
        checkpoint.write(path, state, {"made_by": made_by, "classes": json.dumps(task.classes)})
    return state


def generalist_recipe(context: EvaluationContext) -> TrainingRecipe:
    """The zoo's own training, longer; `Inapplicable` where it is not known how its networks were trained."""
    recipe = context.zoo.training_recipe
    if recipe is None:
        raise Inapplicable("the zoo does not say how its networks were trained")
    longest = max(len(task.classes) for task in context.tasks)
    steps = -(-recipe.steps * len(_known_classes(context)) // longest)
    return dataclasses.replace(recipe, steps=steps, batch_seed=None)


def _known_classes(context: EvaluationContext) -> tuple[str, ...]:
    return tuple(
        n for n, has in zip(context.data.class_names, context.has_class.any(0).tolist(), strict=True) if has
    )


def _digest(recipe: TrainingRecipe, task: Task) -> str:
    said = json.dumps([config.to_dict(recipe), task.dataset, task.classes], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
