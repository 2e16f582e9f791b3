"""Generated networks as a start on other data, beside random starts and trained networks of the zoo.

python -m benchmarks.transfer [--size small|paper] [--seeds 3] [--demo demo]

Networks for digits go on with three classes of Fashion-MNIST, made 8x8 pixels, for 0, 1 and 5 epochs, with
few images and with all. Every start has the same mini-batches and the same recipe, the zoo's own. Seeds draw
other classes and other networks; the generator is one. Where Fashion-MNIST is missing, it says so and stops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import aim
from benchmarks.runs import DEMO, Demo, main
from weightflow import datasets
from weightflow.applications.fusion_baselines import recipe_of
from weightflow.applications.transfer import random_starts, transfer
from weightflow.batched.tasks import Task
from weightflow.text import Prompt

OTHER, CLASSES = "fashion_mnist?size=8", 3
SETS = {"small": 2, "paper": 10}
NETWORKS = {"small": 8, "paper": 30}
EPOCHS = (0, 1, 5)
IMAGES = (20, 200, None)


def run_once(demo: Demo, seed: int, size: str) -> list[dict[str, Any]]:
    names = datasets.load(OTHER).class_names
    rng, flow, networks = np.random.default_rng(seed), demo.flow, NETWORKS[size]
    unseen = [
        (row, record.classes)
        for row, record in enumerate(demo.zoo.records)
        if record.split == "unseen_combinations" and len(record.classes) == CLASSES
    ]
    chosen = [unseen[i % len(unseen)] for i in rng.permutation(max(networks, len(unseen)))[:networks]]
    recipe = recipe_of(flow)
    starts = {
        "generated": flow.sample_states(
            [Prompt(c) for _, c in chosen], [1000 * seed + i for i in range(networks)]
        ),
        "zoo": demo.zoo.load([row for row, _ in chosen]),
        "random": random_starts(flow.architecture, networks, recipe),
    }
    rows = []
    for _ in range(SETS[size]):
        task = Task(OTHER, tuple(names[i] for i in rng.choice(len(names), CLASSES, replace=False)))
        for images in IMAGES:
            found = transfer(flow.architecture, starts, task, EPOCHS, recipe, images)
            rows += [
                {
                    "seed": seed,
                    "classes": task.classes,
                    "images": images,
                    "epochs": epochs,
                    **{name: round(float(own[epochs].mean()), 6) for name, own in found.items()},
                }
                for epochs in EPOCHS
            ]
    return rows


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for images in IMAGES:
        for epochs in EPOCHS[1:]:
            own = [r for r in rows if r["images"] == images and r["epochs"] == epochs]
            gaps = [
                float(np.mean([r["generated"] - r["random"] for r in own if r["seed"] == seed]))
                for seed in sorted({r["seed"] for r in own})
            ]
            many = "all" if images is None else f"{images}"
            name = f"generated less random start, {many} images, epochs: {epochs}, points of 1"
            found.append(aim(name, "above 0", gaps, min(gaps) > 0))
    return found


if __name__ == "__main__":
    main("transfer", __doc__, DEMO, run_once, aims)
