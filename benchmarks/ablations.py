"""What each choice of the demo buys: the same population and budget, one choice undone at a time.

python -m benchmarks.ablations [--size small|paper] [--seeds 3] [--steps 300]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.generator.generator import Flow
from weightflow.report.generated import ratios, sample
from weightflow.report.novelty import rms_ratio
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Variant:
    """Changes to the recipe of the zoo and to the preset of the run; whether the zoo is canonical."""

    recipe: dict[str, Any] = field(default_factory=dict)
    preset: dict[str, Any] = field(default_factory=dict)
    canonical: bool = True


VARIANTS = {
    "default": Variant(),
    "no behaviour in the loss": Variant(preset={"behaviour": {"weight": 0.0}}),
    "not canonical": Variant(canonical=False),
    "classes are not tokens": Variant(preset={"layout": "units"}),
    "no weight decay in the zoo": Variant(recipe={"training": {"weight_decay": 0.0}}),
}


# half of the demo's networks and fewer steps, so that several seeds take minutes, not hours
SMALL = {"tasks": {"seen": 500, "validation": 60, "unseen": 120}}
STEPS = {"small": 300, "paper": 1000}


def measure(name: str, variant: Variant, seed: int, size: str, steps: int, folder: Path) -> dict[str, Any]:
    changes = {"seed": seed, **(SMALL if size == "small" else {}), **variant.recipe}
    recipe = read_recipe("digits", changes)
    place = folder / f"{seed}-{len(variant.recipe)}"
    build_zoo(recipe, place / "zoo")
    zoo = Zoo(place / "zoo")
    if variant.canonical:
        if not (place / "canonical").exists():
            canonicalize_zoo(zoo, place / "canonical")
        zoo = Zoo(place / "canonical")
    run = folder / f"{seed}-{name.replace(' ', '-')}"
    config = read_preset("weightflow", {"seed": seed, "steps": steps, **variant.preset})
    begin = time.perf_counter()
    start(zoo, config, run).run()
    seconds, flow = time.perf_counter() - begin, Flow(run)
    context = EvaluationContext(flow, zoo, flow.sampling)
    return {
        "variant": name,
        "seed": seed,
        "training_seconds": round(seconds, 1),
        **figures(context),
    }


def figures(context: EvaluationContext) -> dict[str, Any]:
    """Unseen combinations: accuracy, the trained bound, spread and, in a frame, distance."""
    zoo, rows = context.zoo, context.zoo.rows("unseen_combinations")
    tasks = context.tasks_of(rows)
    state = sample(context, tasks, 0)
    far = ratios(context, state, tasks)
    return {
        "accuracy": float(evaluate_networks(zoo.architecture, state, tasks).accuracy.mean()),
        "trained": float(evaluate_networks(zoo.architecture, zoo.load(rows), tasks).accuracy.mean()),
        "rms_ratio": rms_ratio(context, state, tasks),
        "nearest_distance_ratio": None if far is None else float(far.mean()),
        **({"reason": "distances need a common frame"} if far is None else {}),
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def share(name: str) -> list[float]:
        return [r["accuracy"] / r["trained"] for r in rows if r["variant"] == name]

    least = min(share("default"))
    return [
        aim(
            f"'{name}', share of trained",
            f"below the default's, {least:.3f}",
            share(name),
            max(share(name)) < least,
        )
        for name in VARIANTS
        if name != "default"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--steps", type=int, default=0, help="of training; 0 for the size's own")
    asked = parser.parse_args()
    steps = asked.steps or STEPS[asked.size]
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            for name, variant in VARIANTS.items():
                rows.append(measure(name, variant, seed, asked.size, steps, Path(folder)))
                print(rows[-1], flush=True)
    seconds = time.perf_counter() - begin
    size = f"{asked.size}, {steps} steps"
    print(
        write_result(
            "ablations", size=size, seeds=range(asked.seeds), seconds=seconds, rows=rows, aims=summary(rows)
        )
    )


if __name__ == "__main__":
    main()
