"""Generated networks as initialisations: accuracy over the first steps of training, from each start.

python -m benchmarks.initialisation [--size small|paper] [--seeds 3] [--run demo/run]

Tasks are combinations that the generator never saw; seeds draw other tasks, networks and mini-batches. For
every start and number of steps the learning rate is chosen on validation images, out of the zoo's own, a
third and three times of it, so that no start is held back by another's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import aim
from benchmarks.runs import RUN, main, unseen_tasks
from canon.types import StateDict
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_to_each
from weightflow.evaluation.baselines import Inapplicable, answer
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.fine_tuning import INITIALISATIONS, zoo_recipe
from weightflow.report.generated import sample

STEPS = (0, 1, 5, 20, 50, 100, 200)
TASKS = {"small": 20, "paper": 100}
RATES = (1 / 3, 1.0, 3.0)
BASELINES = ("zoo_mean", "zoo_mean_rows", "nearest_prompt", "nearest_rows")


def starts(context: EvaluationContext, tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, StateDict]:
    found = {"generated": sample(context, tasks, seeds[0])}
    found |= {name: make(context.zoo.architecture, tasks, seeds) for name, make in INITIALISATIONS.items()}
    for name in BASELINES:
        try:
            found[name] = answer(context, name, tasks, seeds[0])
        except Inapplicable as reason:
            print(f"{name}: {reason}")
    return found


def run_once(context: EvaluationContext, seed: int, size: str) -> list[dict[str, Any]]:
    architecture, data = context.zoo.architecture, datasets.load(context.zoo.dataset)
    tasks, recipe = unseen_tasks(context, seed, TASKS[size]), zoo_recipe(context.zoo)
    seeds = [10_000 * (seed + 1) + i for i in range(len(tasks))]
    rows = []
    for name, begin in starts(context, tasks, seeds).items():
        accuracy, rates = [], []
        trained = {}
        for rate in RATES:
            own = replace(recipe, learning_rate=rate * recipe.learning_rate)
            trained[rate] = train_to_each(architecture, data, tasks, seeds, own, STEPS, begin)
        for steps in STEPS:
            tried = []
            for rate in RATES if steps else (1.0,):
                state = trained[rate][steps]
                validation = [one["validation"] for one in measured(architecture, state, data, tasks)]
                tried.append((float(np.mean(validation)), rate, state))
            _, rate, best = max(tried, key=lambda t: t[:2])
            accuracy.append(round(float(evaluate_networks(architecture, best, tasks).accuracy.mean()), 6))
            rates.append(round(rate * recipe.learning_rate, 6))
        rows.append(
            {
                "seed": seed,
                "start": name,
                "networks": len(tasks),
                "steps": list(STEPS),
                "accuracy": accuracy,
                "learning_rate": rates,
            }
        )
        print(rows[-1], flush=True)
    return rows


def steps_to_reach(accuracy: Sequence[float], wanted: float) -> float:
    """Steps at which a curve reaches an accuracy, straight between its points; the last one where it never does."""
    for i, value in enumerate(accuracy):
        if value >= wanted:
            if i == 0:
                return float(STEPS[0])
            share = (wanted - accuracy[i - 1]) / (value - accuracy[i - 1])
            return STEPS[i - 1] + share * (STEPS[i] - STEPS[i - 1])
    return float(STEPS[-1])


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_seed = {
        seed: {r["start"]: r["accuracy"] for r in rows if r["seed"] == seed}
        for seed in {r["seed"] for r in rows}
    }
    one = STEPS.index(1)
    found = []
    for name in INITIALISATIONS:
        worth = [steps_to_reach(curves[name], curves["generated"][one]) for curves in by_seed.values()]
        wanted = f"at least 50 (counted to {STEPS[-1]})"
        found.append(
            aim(f"steps from {name} initialisation worth 1 from generated", wanted, worth, min(worth) >= 50)
        )
    for name in BASELINES:
        gaps = [c["generated"][one] - c[name][one] for c in by_seed.values() if name in c]
        if gaps:
            label = f"after 1 step, generated less {name.replace('_', ' ')}, points of 1"
            found.append(aim(label, "above 0", gaps, min(gaps) > 0))
    return found


if __name__ == "__main__":
    main("initialisation", __doc__, RUN, run_once, aims)
