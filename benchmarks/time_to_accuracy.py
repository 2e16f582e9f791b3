"""How long a generator trains until it is as accurate as one of the preset `deepweightflow`, on Fashion-MNIST MLPs.

`deepweightflow` trains for --steps; its networks' accuracy on validation images is what `narrow` has to reach, which trains
from the start for each of some numbers of steps. Both presets in one run, one after the other; what is timed is training alone,
the walk over the zoo with which it begins included. Test images are looked at afterwards.

python -m benchmarks.time_to_accuracy --zoo FOLDER [--steps 3000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import weightflow
from benchmarks.common import aim, write_result
from benchmarks.one_task import Population, trained
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.zoo.store import Zoo

STEPS = (25, 50, 100, 200, 400, 1000)
WANTED = 0.25


def measured(flow: weightflow.Flow, population: Population, seed: int) -> dict[str, float]:
    """Accuracy of generated networks on validation and test images, and how far they are from the zoo."""
    networks = flow.sample(population.prompts[0], population.networks, seed=1000 * seed)
    validation = evaluate_networks(
        networks.architecture, networks.state, population.tasks, population.tasks[0].data.validation
    )
    made = population.evaluate_networks(networks.state)
    distances = flow.novelty(networks)
    return {
        "validation": float(validation.accuracy.mean()),
        **population.good(made),
        "nearest_distance_ratio": sum(distances) / len(distances),
    }


def rows_of(population: Population, seed: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """`deepweightflow`, and `narrow` for more and more steps, up to the first that is as accurate."""
    rows: list[dict[str, Any]] = []
    for preset, count in (("deepweightflow", steps), *(("narrow", count) for count in STEPS)):
        run = folder / f"{preset}-{count}-{seed}"
        _, cost = trained(population.zoo, preset, {"steps": count, "seed": seed}, run)
        found = measured(weightflow.load(run), population, seed)
        rows.append({"preset": preset, "seed": seed, **cost, **found})
        print(rows[-1], flush=True)
        if preset == "narrow" and rows[-1]["validation"] >= rows[0]["validation"]:
            break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True, help="a canonical zoo of Fashion-MNIST MLPs")
    parser.add_argument("--steps", type=int, default=3000, help="steps of deepweightflow (published: 30,000)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=40)
    asked = parser.parse_args()
    begin = time.perf_counter()
    population = Population.of(Zoo(asked.zoo), asked.networks)
    rows: list[dict[str, Any]] = []
    shares, reached = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seeds):
            found = rows_of(population, seed, asked.steps, Path(temporary))
            rows += found
            shares.append(found[-1]["training_seconds"] / found[0]["training_seconds"])
            reached.append(found[-1]["validation"] >= found[0]["validation"])
    name = "seconds of `narrow` to the validation accuracy of `deepweightflow`, over its seconds"
    write_result(
        "time_to_accuracy",
        size="small" if asked.steps < 30_000 else "paper",
        seeds=range(asked.seeds),
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=[aim(name, f"at most {WANTED}", shares, all(reached) and max(shares) <= WANTED)],
    )


if __name__ == "__main__":
    main()
