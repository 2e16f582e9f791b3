"""What each choice of the demo buys: the same population and budget, one choice undone at a time.

python -m benchmarks.ablations [--seeds 3] [--steps 500]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from weightflow.baselines import Known
from weightflow.canonicalize import canonicalize_zoo
from weightflow.evaluate import judge
from weightflow.novelty import nearest_distances, root_mean_square
from weightflow.presets import read_preset
from weightflow.sample import Flow
from weightflow.text import Prompt
from weightflow.train import start
from weightflow.zoo.build import build_zoo
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
    "classes are no tokens": Variant(preset={"layout": "units"}),
    "no weight decay in the zoo": Variant(recipe={"training": {"weight_decay": 0.0}}),
}


def measure(name: str, variant: Variant, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    recipe = read_recipe("digits", {"seed": seed, **variant.recipe})
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
    seconds = time.perf_counter() - begin
    flow = Flow(run)
    return {
        "variant": name,
        "seed": seed,
        "training_seconds": round(seconds, 1),
        **figures(Known(flow, zoo, flow.sampling)),
    }


def figures(known: Known) -> dict[str, Any]:
    """Unseen combinations: accuracy, the trained bound, spread and, in a frame, distance."""
    flow, zoo = known.flow, known.zoo
    rows = zoo.rows("unseen_combinations")
    tasks = [zoo.records[i].task for i in rows]
    words = flow.prompts([Prompt(task.classes) for task in tasks])
    z = flow.tokens(words, flow.noise(range(len(tasks)), words.present))
    state = flow.coordinates.decode(z, words.present)
    seen = flow.prompts([Prompt(task.classes) for task in known.tasks])
    real = root_mean_square(
        flow.coordinates.encode(known.state, seen.present),
        flow.coordinates.used(seen.present),
    )
    found = {
        "accuracy": float(judge(zoo.architecture, state, tasks).accuracy.mean()),
        "trained": float(judge(zoo.architecture, zoo.load(rows), tasks).accuracy.mean()),
        "rms_ratio": root_mean_square(z, flow.coordinates.used(words.present)) / real,
    }
    if "canonical" in zoo.manifest:
        found["nearest_distance_ratio"] = float(nearest_distances(known, state, tasks).ratios.mean())
        return found
    return {**found, "nearest_distance_ratio": None, "reason": "distances need a common frame"}


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
    parser.add_argument("--steps", type=int, default=500)
    asked = parser.parse_args()
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            for name, variant in VARIANTS.items():
                rows.append(measure(name, variant, seed, asked.steps, Path(folder)))
                print(rows[-1], flush=True)
    seconds = time.perf_counter() - begin
    size = f"{asked.steps} steps"
    print(
        write_result(
            "ablations", size=size, seeds=range(asked.seeds), seconds=seconds, rows=rows, aims=summary(rows)
        )
    )


if __name__ == "__main__":
    main()
