"""How fast a population is judged: a thousand Fashion-MNIST MLPs on ten thousand test images.

python -m benchmarks.judging [--networks 1000] [--seeds 3]

Accuracy, confidence and calibration of every network. The weights are PyTorch's initialisations: speed does
not depend on what they are. The floor is the time of the same products of matrices by themselves.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.common import aim, write_result
from weightflow import datasets
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.networks.architectures import Architecture


def measure(architecture: Architecture, task: Task, networks: int, seed: int) -> dict[str, Any]:
    state = initialise(architecture, range(seed * networks, (seed + 1) * networks))
    begin = time.perf_counter()
    predictions = evaluate_networks(architecture, state, [task] * networks)
    error = float(predictions.calibration.mean())
    seconds = time.perf_counter() - begin
    examples = predictions.predicted.shape[1]
    return {
        "seed": seed,
        "networks": networks,
        "images": examples,
        "seconds": round(seconds, 2),
        "floor_seconds": round(2 * architecture.parameters * networks * examples / speed(), 2),
        "accuracy": round(float(predictions.accuracy.mean()), 6),
        "calibration_error": round(error, 6),
    }


def speed(size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations a second of one large product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    begin = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    data = datasets.load("fashion_mnist")
    architecture = Architecture("mlp", {"inputs": 784, "hidden": [128, 128]}, data.input_shape, 10)
    task, begin = Task(data.name, data.class_names), time.perf_counter()
    evaluate_networks(architecture, initialise(architecture, range(2)), [task] * 2)  # read the images
    rows = [measure(architecture, task, given.networks, seed) for seed in range(given.seeds)]
    seconds = [row["seconds"] for row in rows]
    found = [aim("seconds for a thousand networks", "at most 60", seconds, max(seconds) <= 60)]
    size = f"{given.networks} networks"
    print(
        write_result(
            "judging",
            size=size,
            seeds=range(given.seeds),
            seconds=time.perf_counter() - begin,
            rows=rows,
            aims=found,
        )
    )


if __name__ == "__main__":
    main()
