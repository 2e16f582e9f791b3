"""Where is a generator needed? Accuracy against the width of networks, the number of networks, the number of examples.

Zoos of the recipe `specialists` (ten of 57 known classes), each with another number of hidden units, of networks or of
training examples a class; and on combinations that no network was trained on: one network for all classes (generalist),
generated networks, networks trained on the task, and the best of the trivial baselines. Without any network, the
generator is the hypernetwork: the same model, trained on freely drawn tasks. Writes docs/figures/specialists.svg too.

python -m benchmarks.specialists_curve --images DATASET --backbone FILE --encoder table:vectors.npz
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.common import write_result
from benchmarks.runs import unseen_tasks
from benchmarks.specialists import NOT_TRIVIAL, measure_baselines, trained_accuracy
from weightflow.evaluation.baselines import answer
from weightflow.evaluation.chance import chance
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

STEPS = {"small": 400, "paper": 2500}
NETWORKS, HELD_OUT = {"small": 300, "paper": 1000}, {"small": (30, 60), "paper": (100, 200)}
HIDDEN = 4
UNITS, ZOO, EXAMPLES = "hidden units", "networks in the zoo", "training examples a class"
SWEEPS: dict[str, tuple[int, ...]] = {
    UNITS: (2, 4, 8, 16, 32, 0),
    ZOO: (0, 100, 300, 1000, 3000),
    EXAMPLES: (5, 20, 60, 0),
}
ZERO = {UNITS: "none (linear)", ZOO: "0 (hypernetwork)", EXAMPLES: "all"}
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "specialists.svg"
LINES = {"trained": "trained on the task", "generated": "generated from words", "generalist": "generalist",
         "best_trivial": "best trivial baseline"}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What one zoo is made of; no `hidden` units are a linear head."""

    hidden: int
    networks: int
    images: int | None


def setting(sweep: str, value: int, size: str) -> Setting:
    """The settings of one point; no networks ask for the hypernetwork beside the smallest zoo."""
    usual = Setting(HIDDEN, NETWORKS[size], None)
    if sweep == EXAMPLES:
        return replace(usual, images=value or None)
    if sweep == ZOO:
        return replace(usual, networks=value or min(filter(None, SWEEPS[ZOO])))
    return replace(usual, hidden=value)


def trained_generator(asked: Setting, options: argparse.Namespace, folder: Path) -> EvaluationContext:
    """A zoo of the recipe, and a run of the preset on it."""
    validation, unseen = HELD_OUT[options.size]
    tasks = {
        "seen": asked.networks,
        "validation": validation,
        "unseen": unseen,
        "unseen_classes": 0,
        "unseen_by_backbone": 0,
    }
    arguments = {"inputs": 512, "hidden": [asked.hidden] if asked.hidden else []}
    few = f"?examples_per_class={asked.images}" if asked.images else ""
    recipe = read_recipe("specialists", {
        "dataset": f"{options.images} through {options.backbone}{few}", "tasks": tasks,
        "architecture": {"name": "mlp", "arguments": arguments},
    })  # fmt: skip
    build_zoo(recipe, folder / "zoo")
    canonicalize_zoo(Zoo(folder / "zoo"), folder / "canonical")
    steps = STEPS[options.size]
    changes = {
        "encoder": options.encoder, "steps": steps, "evaluate_every": 100, "save_every": steps,
        "learning_rate": 2e-3, "model": {"centred": True},
    }  # fmt: skip
    start(Zoo(folder / "canonical"), read_preset("specialists", changes), folder / "run").run()
    return open_context(folder / "run")


def point(context: EvaluationContext, asked: Setting, steps: int) -> dict[str, Any]:
    """The figures of one zoo."""
    tasks = unseen_tasks(context, 0, len(context.zoo))
    state = context.flow.sample_states([Prompt(t.classes) for t in tasks], range(len(tasks)), context.config)
    baselines = dict(
        measure_baselines(context, tasks, 0, leave_out=("hypernetwork", "shuffled_prompt", "random_text"))
    )
    trivial = {n: v for n, v in baselines.items() if v is not None and n not in NOT_TRIVIAL}
    best = max(trivial, key=lambda name: trivial[name])
    return {
        "hidden": asked.hidden, "networks": asked.networks, "images": asked.images, "steps": steps,
        "parameters": context.zoo.architecture.parameters, "tasks": len(tasks), "chance": chance(tasks),
        "generalist": baselines["generalist"], "trained": trained_accuracy(context, tasks),
        "generated": float(evaluate_networks(context.zoo.architecture, state, tasks).accuracy.mean()),
        "best_trivial": trivial[best], "best_trivial_name": best,
    }  # fmt: skip


def without_networks(context: EvaluationContext, row: dict[str, Any]) -> dict[str, Any]:
    """The row of the hypernetwork, which needs no zoo, as no trivial baseline does without one."""
    tasks = unseen_tasks(context, 0, row["tasks"])
    state = answer(context, "hypernetwork", tasks, 0)
    accuracy = float(evaluate_networks(context.zoo.architecture, state, tasks).accuracy.mean())
    return {**row, "networks": 0, "generated": accuracy, "best_trivial": None, "best_trivial_name": None}


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    measured: dict[Setting, dict[str, Any]] = {}
    for sweep, values in SWEEPS.items():
        for value in values:
            asked = setting(sweep, value, options.size)
            empty, place = sweep == ZOO and not value, {"sweep": sweep, "point": str(value or ZERO[sweep])}
            if asked not in measured or empty:
                with tempfile.TemporaryDirectory() as folder:
                    context = trained_generator(asked, options, Path(folder))
                    measured[asked] = point(context, asked, STEPS[options.size])
                    if empty:
                        yield {**place, **without_networks(context, measured[asked])}
                        continue
            yield {**place, **measured[asked]}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each sweep, one line for each way to get a network."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "weightflow"
    figure, panels = pyplot.subplots(1, len(SWEEPS), figsize=(12, 3.8), facecolor="white", sharey=True)
    for axes, sweep in zip(panels, SWEEPS, strict=True):
        own = [row for row in rows if row["sweep"] == sweep]
        for name, label in LINES.items():
            values = [math.nan if row[name] is None else 100 * row[name] for row in own]
            axes.plot(range(len(own)), values, marker="o", label=label)
        axes.set_xticks(range(len(own)), [row["point"].replace(" (", "\n(") for row in own])
        axes.set_xlabel(sweep)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, unseen combinations (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="upper center", ncols=len(LINES))
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(STEPS), default="small")
    parser.add_argument("--images", default="cifar100", help="the data set of a hundred classes")
    parser.add_argument("--backbone", required=True, help="its file")
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    options = parser.parse_args()
    begin, rows = time.perf_counter(), []
    for row in measure(options):
        rows.append(row)
        print(row, flush=True)
    draw(rows, FIGURE)
    seconds = time.perf_counter() - begin
    print(
        write_result("specialists_curve", size=options.size, seeds=[0], seconds=seconds, rows=rows, aims=[])
    )


if __name__ == "__main__":
    main()
