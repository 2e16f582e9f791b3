"""Diversity of the networks of one prompt, and the accuracy of their ensemble.

Beside them eight networks trained on the same task from independent seeds. A generator that answers every
seed with one network is a table from prompts to networks, however accurate it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.group_size import networks_per_group
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.data.types import Split
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.error_overlap import compare_behaviour
from weightflow.evaluation.evaluate import Spread, evaluate_ensembles, evaluate_networks
from weightflow.text import Prompt

NETWORKS = 8
# seeds of the networks that are trained for comparison; no zoo begins there
SEED = 2**30


@dataclass(frozen=True)
class Diversity:
    """Of several networks of one task, by task (tasks,): accuracy of one and of all together, fractions, and
    the mean share of examples on which two of them disagree."""

    one: Tensor
    ensemble: Tensor
    disagreement: Tensor

    def to_dict(self) -> dict[str, Any]:
        gain = self.ensemble - self.one
        figures = {
            "one": self.one,
            "ensemble": self.ensemble,
            "gain": gain,
            "disagreement": self.disagreement,
        }
        return {name: Spread.of(values, -1.0).to_dict() for name, values in figures.items()}


def diversity(context: EvaluationContext, tasks: Sequence[Task], seed: int, most: int = 8) -> dict[str, Any]:
    """Figures of generated and of trained networks on the first `most` combinations of classes.

    Where networks of the zoo's architecture cannot be trained side by side, fewer tasks are looked at.
    """
    own = list({frozenset(task.classes): task for task in tasks}.values())
    own = own[: most if networks_per_group(context.zoo.architecture) > 1 else 2]
    prompts = [Prompt(task.classes) for task in own for _ in range(NETWORKS)]
    seeds = range(seed, seed + len(prompts))
    made = measure_diversity(context, context.flow.sample_states(prompts, seeds, context.config), own)
    found: dict[str, Any] = {"networks": NETWORKS, "tasks": len(own), "generated": made.to_dict()}
    reason = _why_none_is_trained(context)
    if reason:
        return found | {"trained": None, "trained_reason": reason, "ratio": None, "ratio_reason": reason}
    trained = measure_diversity(context, train_alike(context, own), own)
    ratio = float(made.disagreement.mean() / trained.disagreement.mean().clamp(min=1e-6))
    return found | {"trained": trained.to_dict(), "ratio": round(ratio, 6)}


def train_alike(context: EvaluationContext, tasks: Sequence[Task]) -> StateDict:
    """`NETWORKS` networks in a row for each task, trained as the zoo's from seeds that no zoo has."""
    repeated = [task for task in tasks for _ in range(NETWORKS)]
    recipe, seeds = context.zoo.training_recipe, range(SEED, SEED + len(repeated))
    assert recipe is not None
    return train_many(context.zoo.architecture, context.data, repeated, seeds, recipe).state


def measure_diversity(
    context: EvaluationContext, state: StateDict, tasks: Sequence[Task], split: Split | None = None
) -> Diversity:
    """`state` holds as many networks in a row for each task; examples as of `evaluate_networks`."""
    architecture, count = context.zoo.architecture, len(next(iter(state.values()))) // len(tasks)
    rows: list[tuple[float, float, float]] = []
    for place, task in enumerate(tasks):
        some = {n: t[place * count : (place + 1) * count] for n, t in state.items()}
        predictions, same = evaluate_networks(architecture, some, [task] * count, split), [task] * count
        differ = compare_behaviour(predictions, same, predictions, same).disagreement
        ensemble = evaluate_ensembles(architecture, some, task, [count], split)[count]
        rows.append((float(predictions.accuracy.mean()), ensemble, differ or 0.0))
    return Diversity(*torch.tensor(rows, dtype=torch.float64).T)


def _why_none_is_trained(context: EvaluationContext) -> str | None:
    if context.zoo.training_recipe is None:
        return "the zoo does not say how its networks were trained"
    if context.zoo.manifest.get("lineage") == "branched":
        return "all networks of the zoo are fine-tuned from one, and none is independent"
    if networks_per_group(context.zoo.architecture) == 1:
        return "networks of this size are not trained for a report"
    return None
