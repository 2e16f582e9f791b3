"""Classes made of classes: networks for groupings of the ten digits that no network was trained on.

A task is like "one or seven, three, other" (recipe `digits_groupings`); ten digits have millions of groupings, so that
no retrieved network answers them. For each seed a generator, asked for the unseen groupings of the zoo, beside networks
trained on these and the baselines that can answer.

python -m benchmarks.groupings
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from benchmarks.specialists import NOT_TRIVIAL, measure_baselines
from weightflow.evaluation.chance import chance
from weightflow.evaluation.context import open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

STEPS = {"small": 1000, "paper": 5000}
CHANGES: dict[str, Any] = {
    "learning_rate": 2e-3, "behaviour": {"sampled": 0.5, "weight": 3.0, "beyond": 0.5},
    "model": {"centred": True, "edges": True},
}  # fmt: skip


def measure(zoo: Zoo, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    steps = options.steps or STEPS[options.size]
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            changes = {**CHANGES, "seed": seed, "steps": steps, "evaluate_every": 250, "save_every": steps}
            start(zoo, read_preset("weightflow", changes), Path(folder) / "run").run()
            context = open_context(Path(folder) / "run")
            rows = context.zoo.rows("unseen_combinations")
            tasks, architecture = context.tasks_of(rows), context.zoo.architecture
            made = context.flow.sample_states(
                [Prompt(t.classes) for t in tasks], range(len(tasks)), context.config
            )
            yield {
                "seed": seed, "tasks": len(tasks), "steps": steps, "chance": chance(tasks),
                "generated": float(evaluate_networks(architecture, made, tasks).accuracy.mean()),
                "trained": float(evaluate_networks(architecture, context.zoo.load(rows), tasks).accuracy.mean()),
                "baselines": dict(measure_baselines(context, tasks, seed)),
            }  # fmt: skip


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    over = [r["generated"] / r["trained"] for r in rows]
    less = [100 * (r["generated"] - r["baselines"]["nearest_prompt"]) for r in rows]
    best = [
        100
        * (
            r["generated"]
            - max(v for n, v in r["baselines"].items() if v is not None and n not in NOT_TRIVIAL)
        )
        for r in rows
    ]
    return [
        aim("accuracy over trained, unseen groupings", "at least 0.97", over, sum(over) / len(over) >= 0.97),
        aim("less the nearest prompt, points", "at least 10", less, sum(less) / len(less) >= 10),
        aim("less the best trivial baseline, points", "above 0", best, sum(best) > 0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(STEPS), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds of training, from 0")
    parser.add_argument("--zoo-seed", type=int, default=1, help="of the groupings and the networks")
    parser.add_argument("--steps", type=int, help="of training, instead of the size's")
    parser.add_argument("--folder", type=Path, help="where zoo and runs go; by default they do not stay")
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or Path(scratch)
        options.folder.mkdir(parents=True, exist_ok=True)
        built, aligned = options.folder / "groupings", options.folder / "groupings-canonical"
        build_zoo(read_recipe("digits_groupings", {"seed": options.zoo_seed}), built)
        if not (aligned / "zoo.json").exists():
            canonicalize_zoo(Zoo(built), aligned)
        rows = []
        for row in measure(Zoo(aligned), options):
            rows.append(row)
            print(row, flush=True)
    seconds, seeds = time.perf_counter() - begin, range(options.seeds)
    print(
        write_result("groupings", size=options.size, seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows))
    )


if __name__ == "__main__":
    main()
