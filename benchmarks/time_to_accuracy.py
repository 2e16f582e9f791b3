"""How long a generator trains until it is as accurate as one of the preset `deepweightflow`, on Fashion-MNIST MLPs.

`deepweightflow` trains for --steps; its networks' accuracy on validation images is what others have to reach, which train from
the start for each of some numbers of steps, up to the first that is as accurate. `direct` is the same model over the same
components, but predicts the network instead of the velocity, at four times the learning rate; `narrow` is ours, whose networks
are new. All in one run, one after the other; what is timed is training alone, the walk over the zoo with which it begins
included. Test images are looked at afterwards. The settings of `direct` were chosen with seed 0.

python -m benchmarks.time_to_accuracy --zoo FOLDER [--steps 3000] [--seeds 3] [--first-seed 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import weightflow
from benchmarks.common import aim, write_result
from benchmarks.one_task import Population, trained
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.zoo.store import Zoo

WANTED = 0.25


@dataclass(frozen=True)
class Contender:
    """Changes to a preset, and for how many steps it trains."""

    preset: str
    steps: tuple[int, ...]
    changes: dict[str, Any] = field(default_factory=dict)


CONTENDERS = {
    "direct": Contender(
        "deepweightflow", (50, 100, 200, 400), {"learning_rate": 2e-3, "objective": {"predict": "clean"}}
    ),
    "narrow": Contender("narrow", (25, 100, 400)),
}


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
    """`deepweightflow`, and each contender for more and more steps, up to the first that is as accurate."""

    def row(name: str, preset: str, changes: dict[str, Any]) -> dict[str, Any]:
        run = folder / f"{name}-{changes['steps']}-{seed}"
        _, cost = trained(population.zoo, preset, {**changes, "seed": seed}, run)
        made = {"preset": name, "seed": seed, **cost, **measured(weightflow.load(run), population, seed)}
        print(made, flush=True)
        return made

    rows = [row("deepweightflow", "deepweightflow", {"steps": steps})]
    for name, contender in CONTENDERS.items():
        for count in contender.steps:
            rows.append(row(name, contender.preset, {**contender.changes, "steps": count}))
            if rows[-1]["validation"] >= rows[0]["validation"]:
                break
    return rows


def aims(found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """`found`: the rows of each seed."""
    told = []
    for name in CONTENDERS:
        last = [[row for row in rows if row["preset"] == name][-1] for rows in found]
        theirs = [rows[0] for rows in found]
        reached = all(ours["validation"] >= row["validation"] for ours, row in zip(last, theirs, strict=True))
        pairs = list(zip(last, theirs, strict=True))
        shares = [ours["training_seconds"] / row["training_seconds"] for ours, row in pairs]
        at = f"seconds of `{name}` to the validation accuracy of `deepweightflow`, over its seconds"
        told.append(aim(at, f"at most {WANTED}", shares, reached and max(shares) <= WANTED))
        more = [ours["nearest_distance_ratio"] - row["nearest_distance_ratio"] for ours, row in pairs]
        told.append(
            aim(
                f"its distance ratio less that of `deepweightflow`, `{name}`",
                "at least 0",
                more,
                min(more) >= 0,
            )
        )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True, help="a canonical zoo of Fashion-MNIST MLPs")
    parser.add_argument("--steps", type=int, default=3000, help="steps of deepweightflow (published: 30,000)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--networks", type=int, default=40)
    asked = parser.parse_args()
    begin = time.perf_counter()
    population = Population.of(Zoo(asked.zoo), asked.networks)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    with tempfile.TemporaryDirectory() as temporary:
        found = [rows_of(population, seed, asked.steps, Path(temporary)) for seed in seeds]
    write_result(
        "time_to_accuracy",
        size="small" if asked.steps < 30_000 else "paper",
        seeds=seeds,
        seconds=time.perf_counter() - begin,
        rows=[row for rows in found for row in rows],
        aims=aims(found),
    )


if __name__ == "__main__":
    main()
