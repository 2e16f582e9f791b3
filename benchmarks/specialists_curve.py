"""Accuracy against the width of the hidden layer: from networks too small for everything to linear heads.

For each width a zoo of 300 networks (recipe `specialists`, ten of 57 known classes), and on combinations that no network
was trained on: one network for all classes (generalist), generated networks, networks trained on the task, and the
best of the trivial baselines. Writes docs/figures/specialists.svg too.

python -m benchmarks.specialists_curve --images DATASET --backbone FILE --encoder table:vectors.npz
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.common import write_result
from benchmarks.runs import unseen_tasks
from benchmarks.specialists import NOT_TRIVIAL, measure_baselines, trained_accuracy
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

WIDTHS = (2, 4, 8, 16, 0)  # 0: a linear head
STEPS = {"small": 400, "paper": 2500}
NETWORKS = {"small": (300, 30, 60), "paper": (1000, 100, 200)}
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "specialists.svg"
LINES = {"trained": "trained on the task", "generated": "generated from words", "generalist": "generalist",
         "best_trivial": "best trivial baseline"}  # fmt: skip


def point(width: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of one width."""
    seen, validation, unseen = NETWORKS[options.size]
    tasks = {
        "seen": seen,
        "validation": validation,
        "unseen": unseen,
        "unseen_classes": 0,
        "unseen_by_backbone": 0,
    }
    arguments = {"inputs": 512, "hidden": [width] if width else []}
    recipe = read_recipe("specialists", {
        "dataset": f"{options.images} through {options.backbone}", "tasks": tasks,
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
    context = open_context(folder / "run")
    asked = unseen_tasks(context, 0, unseen)
    state = context.flow.sample_states([Prompt(t.classes) for t in asked], range(len(asked)), context.config)
    baselines = dict(
        measure_baselines(context, asked, 0, leave_out=("hypernetwork", "shuffled_prompt", "random_text"))
    )
    trivial = {n: v for n, v in baselines.items() if v is not None and n not in NOT_TRIVIAL}
    best = max(trivial, key=lambda name: trivial[name])
    return {
        "hidden": width, "parameters": context.zoo.architecture.parameters, "tasks": len(asked), "chance": chance(asked),
        "generalist": baselines["generalist"], "trained": trained_accuracy(context, asked),
        "generated": float(evaluate_networks(context.zoo.architecture, state, asked).accuracy.mean()),
        "best_trivial": trivial[best], "best_trivial_name": best, "steps": steps, "networks": seen,
    }  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One line for each way to get a network."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "weightflow"
    figure, axes = pyplot.subplots(figsize=(6, 3.6), facecolor="white")
    for name, label in LINES.items():
        axes.plot(range(len(rows)), [100 * row[name] for row in rows], marker="o", label=label)
    axes.set_xticks(range(len(rows)), [str(row["hidden"] or "none (linear)") for row in rows])
    axes.set_xlabel("hidden units")
    axes.set_ylabel("accuracy, unseen combinations (%)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
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
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(point(width, options, Path(folder)))
        print(rows[-1], flush=True)
    draw(rows, FIGURE)
    seconds = time.perf_counter() - begin
    print(
        write_result("specialists_curve", size=options.size, seeds=[0], seconds=seconds, rows=rows, aims=[])
    )


if __name__ == "__main__":
    main()
