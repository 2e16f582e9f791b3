"""Weak networks moved partway to noise and back under their own words: accuracy against strength.

python -m benchmarks.enhancement [--size small|paper] [--seeds 3] [--demo demo]

Takes the generator and the zoo of `weightflow demo`. Seeds draw other tasks that the generator never saw,
other trained networks, damage and noise; the generator is one. Weak networks are trained as the zoo's were
and then damaged, or trained for less; two kinds come from elsewhere (SGD, He initialisation, no decay). The
strength is chosen for each kind on validation images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import aim
from benchmarks.runs import DEMO, Demo, main
from canon.types import StateDict
from weightflow import datasets
from weightflow.applications.enhance import enhance
from weightflow.applications.fusion_baselines import recipe_of
from weightflow.applications.transfer import few_examples
from weightflow.batched.accuracy import measured
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.evaluation.chance import chance
from weightflow.evaluation.evaluate import evaluate_networks

TASKS = {"small": 20, "paper": 100}
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ELSEWHERE = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "initialiser": "he_uniform"}


def pruned(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The smallest nine in ten entries of each network's tensor become zero."""
    kept = weight.abs().flatten(1).quantile(0.9, dim=1).view(-1, *[1] * (weight.dim() - 1))
    return weight * (weight.abs() >= kept)


def quantised(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rounded to sixteen levels, symmetric, one scale for each network's tensor."""
    scale = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1)) / 7
    return (weight / scale).round().clamp(-8, 7) * scale


def noised(weight: Tensor, generator: torch.Generator) -> Tensor:
    """As much noise as there is weight, by root mean square."""
    size = weight.square().flatten(1).mean(1).sqrt().view(-1, *[1] * (weight.dim() - 1))
    return weight + size * torch.randn(weight.shape, generator=generator)


def damaged(state: StateDict, how: Callable[[Tensor, torch.Generator], Tensor], seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    return {name: how(t, generator) if t.dim() > 2 else t.clone() for name, t in state.items()}


def weak_networks(demo: Demo, tasks: list[Task], seed: int) -> tuple[StateDict, dict[str, StateDict]]:
    """Fully trained networks for the tasks, and weak ones by kind."""
    architecture, data, recipe = demo.flow.architecture, datasets.load(demo.zoo.dataset), recipe_of(demo.flow)
    seeds = [2**30 + 1000 * seed + i for i in range(len(tasks))]

    def trained(own: Any = recipe, images: int | None = None) -> StateDict:
        seen = few_examples(data, Task(data.name, data.class_names), images)
        return train_many(architecture, seen, tasks, seeds, own).state

    full = trained()
    foreign = trained(dataclasses.replace(recipe, **ELSEWHERE))
    return full, {
        "1 % of the steps": trained(dataclasses.replace(recipe, steps=max(1, recipe.steps // 100))),
        "5 images a class": trained(images=5),
        "90 % pruned": damaged(full, pruned, seed),
        "4 bits": damaged(full, quantised, seed),
        "noise of its own size": damaged(full, noised, seed),
        "from elsewhere, 4 bits": damaged(foreign, quantised, seed),
        "from elsewhere, noise of its own size": damaged(foreign, noised, seed),
    }


def run_once(demo: Demo, seed: int, size: str) -> list[dict[str, Any]]:
    architecture, data = demo.flow.architecture, datasets.load(demo.zoo.dataset)
    unseen = [r.task for r in demo.zoo.records if r.split == "unseen_combinations"]
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(seed))[: TASKS[size]]
    tasks = [unseen[i] for i in order.tolist()]
    full, kinds = weak_networks(demo, tasks, seed)
    noise = [1000 * seed + i for i in range(len(tasks))]
    rows = []
    for kind, weak in kinds.items():
        test, validation = {}, {}
        for strength in STRENGTHS:
            made = enhance(demo.flow, weak, tasks, strength, noise)
            test[strength] = float(evaluate_networks(architecture, made, tasks).accuracy.mean())
            found = measured(architecture, made, data, tasks)
            validation[strength] = sum(one["validation"] for one in found) / len(found)
        chosen = max(validation, key=lambda s: (validation[s], -s))
        rows.append(
            {
                "seed": seed,
                "weak": kind,
                "networks": len(tasks),
                "before": test[0.0],
                "strength": chosen,
                "after": test[chosen],
                "words alone": test[1.0],
                "trained": float(evaluate_networks(architecture, full, tasks).accuracy.mean()),
                "chance": chance(tasks),
                "by strength": {f"{s:g}": round(value, 6) for s, value in test.items()},
            }
        )
    return rows


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seeds = sorted({r["seed"] for r in rows})

    def values(of: Callable[[dict[str, Any]], float], kind: str | None = None) -> list[float]:
        """The mean over kinds, one value a seed."""
        chosen = [[of(r) for r in rows if r["seed"] == s and kind in (None, r["weak"])] for s in seeds]
        return [sum(own) / len(own) for own in chosen]

    little = values(lambda r: r["after"] / r["trained"], "1 % of the steps")
    gains = values(lambda r: r["after"] - r["before"])
    over = values(lambda r: r["after"] - r["words alone"])
    return [
        aim("1 % of the steps, enhanced over fully trained", "at least 0.9", little, min(little) >= 0.9),
        aim("enhanced less as it was, mean of kinds, points of 1", "above 0", gains, min(gains) > 0),
        aim("enhanced less words alone, mean of kinds, points of 1", "above 0", over, min(over) > 0),
    ]


if __name__ == "__main__":
    main("enhancement", __doc__, DEMO, run_once, aims)
