"""Ensembles of 1, 10 and 100 generated networks beside as many trained ones.

python -m benchmarks.ensembles [--size small|paper] [--seeds 3] [--run demo/run]

Tasks are combinations that the generator never saw. `trained` are networks trained for those very tasks as
the zoo's were, from new seeds; where all networks of the zoo have one task, the zoo's own. `zoo` are networks
of the zoo that know all the classes, their rows picked for the task.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import aim
from benchmarks.runs import RUN, main, unseen_tasks
from canon.types import StateDict
from weightflow import config as settings
from weightflow import datasets
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import evaluate_ensembles, evaluate_networks
from weightflow.report.ensembles import networks_that_know, picked
from weightflow.report.generated import sample

SIZES = (1, 10, 100)
TASKS = {"small": 5, "paper": 50}


def populations(context: EvaluationContext, task: Task, seed: int) -> dict[str, StateDict]:
    """A hundred networks of each kind for one task, fewer where there are no more."""
    repeated = [task] * max(SIZES)
    generated = sample(context, repeated, seed)
    if context.one_task:
        return {"generated": generated, "trained": context.picked(range(len(context.rows))[: max(SIZES)])}
    recipe = settings.build(TrainingRecipe, context.zoo.manifest["recipe"]["training"], "training.")
    seeds = [2**40 + seed + i for i in range(max(SIZES))]
    data = datasets.load(context.zoo.dataset)
    trained = train_many(context.zoo.architecture, data, repeated, seeds, recipe).state
    rows = networks_that_know(context, [task])[0].nonzero().squeeze(1)[: max(SIZES)]
    found = {"generated": generated, "trained": trained}
    return {**found, "zoo": picked(context, rows, task)} if len(rows) else found


def run_once(context: EvaluationContext, seed: int, size: str) -> list[dict[str, Any]]:
    architecture, rows = context.zoo.architecture, []
    count = TASKS[size]
    tasks = unseen_tasks(context, seed, 1 if context.one_task else count)
    for place, task in enumerate(tasks):
        for name, state in populations(context, task, 1000 * (count * seed + place)).items():
            networks = len(next(iter(state.values())))
            found = evaluate_ensembles(architecture, state, task, SIZES)
            # one network is the mean over all of them
            found[1] = float(evaluate_networks(architecture, state, [task] * networks).accuracy.mean())
            why = {} if len(found) == len(SIZES) else {"reason": f"only {networks} know the whole task"}
            rows.append(
                {
                    "seed": seed,
                    "task": list(task.classes),
                    "of": name,
                    "networks": networks,
                    **{str(s): None if s not in found else round(found[s], 6) for s in SIZES},
                    **why,
                }
            )
            print(rows[-1], flush=True)
    return rows


def means(rows: list[dict[str, Any]], of: str, size: int) -> list[float]:
    """Mean over tasks, seed by seed, of those that were measured."""
    found = []
    for seed in dict.fromkeys(r["seed"] for r in rows):
        own = [r[str(size)] for r in rows if r["seed"] == seed and r["of"] == of and r[str(size)] is not None]
        found += [float(np.mean(own))] if own else []
    return found


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for size in SIZES[1:]:
        ours, theirs = means(rows, "generated", size), means(rows, "trained", size)
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        label = f"{size} generated less {size} trained, points of 1"
        found.append(aim(label, "at least -0.01", gaps, min(gaps) >= -0.01))
    gains = np.subtract(means(rows, "generated", 10), means(rows, "generated", 1)).tolist()
    found.append(aim("10 generated less 1 generated, points of 1", "above 0", gains, min(gains) > 0))
    over = np.subtract(means(rows, "generated", 100), means(rows, "trained", 1)).tolist()
    found.append(aim("100 generated less 1 trained, points of 1", "above 0", over, min(over) > 0))
    return found


if __name__ == "__main__":
    main("ensembles", __doc__, RUN, run_once, aims)
