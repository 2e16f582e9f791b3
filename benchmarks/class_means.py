"""Narrow networks for classes that nobody has seen, from a generator that is told class means instead of words.

Heads of four hidden units, as in `specialists`. Here the vector of a class is its mean feature in the metric of the
shape within classes: for known classes that of training images, for unseen ones what words, pictures or both predict
(`weightflow/zero_shot/evidence.py`). The zoo is one whose held-out classes are the second draw of `pictures`, which
stands beside it: the same heads from a generator that is told words. That means are told, and how they are scaled, was
chosen on the first draw.

python -m benchmarks.class_means --zoo zoos/specialists-canonical --images DATASET --backbone FILE --encoder table:vectors.npz
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import aim, write_result
from benchmarks.pictures import COUNTS, REPEATS, Shown, narrow
from benchmarks.runs import unseen_tasks
from benchmarks.specialists import trained_accuracy
from weightflow import datasets
from weightflow.evaluation.context import open_known
from weightflow.evaluation.evaluate import judge
from weightflow.text import Prompt, load_encoder
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zero_shot.evidence import Evidence
from weightflow.zero_shot.fit_evidence import fit_evidence
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

STEPS = {"small": 1000, "paper": 5000}
WORDS_ALONE = 0.45


def scaled(evidence: Evidence, means: Tensor) -> Tensor:
    """Mean features (classes, features) as class vectors of root mean square 1."""
    spread = (evidence.variances + evidence.variances.mean()).sqrt()
    return F.normalize((means - evidence.origin) @ evidence.basis / spread, dim=-1) * len(spread) ** 0.5


class Means(Shown):
    """Unseen classes, told by their predicted means."""

    def vectors(self, way: str, count: int, repeat: int) -> Tensor:
        means = [self.evidence.mean(*shown) for shown in self.drawn(way, count, repeat)]
        return scaled(self.evidence, torch.stack(means))


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    zoo, encoder = Zoo(options.zoo), load_encoder(options.encoder)
    recipe = read_recipe(
        "specialists", {"dataset": f"{options.images} through {options.backbone}", "seed": options.draw}
    )
    held, never = recipe.held_out_classes(), recipe.excluded_classes()
    left = [n for n in recipe.tasks.classes if n not in {*held, *never}]
    evidence = fit_evidence(datasets.load(recipe.dataset), left, encoder.encode(left))
    known_means = evidence.origin + evidence.deviations @ evidence.basis.T
    means = torch.cat([known_means, evidence.said(encoder.encode([*held, *never]))])
    table = folder / "means.npz"
    np.savez(table, names=np.array([*left, *held, *never]), embeddings=scaled(evidence, means).numpy())
    steps, repeats = options.steps or STEPS[options.size], REPEATS[options.size]
    for seed in range(options.seeds):
        changes = {
            "seed": seed, "encoder": f"table:{table}", "steps": steps, "evaluate_every": 250, "save_every": steps,
            "learning_rate": 2e-3, "model": {"centred": True},
        }  # fmt: skip
        run = Path(tempfile.mkdtemp(dir=folder)) / "run"
        start(zoo, read_preset("specialists", changes), run).run()
        known = open_known(run)
        if set(known.flow.known_classes) != set(left):
            raise SystemExit(f"{options.zoo} knows other classes than draw {options.draw} leaves")
        tasks = unseen_tasks(known, seed, 100)
        for noise in (0.0, known.config.noise):
            told = replace(known, config=replace(known.config, noise=noise))
            who = {"seed": seed, "noise": noise, "steps": steps}
            state = known.flow.sample_states(
                [Prompt(t.classes) for t in tasks], range(len(tasks)), told.config
            )
            accuracy = float(judge(zoo.architecture, state, tasks).accuracy.mean())
            yield {**who, "group": "unseen combinations of known classes", "way": "known", "pictures": 0,
                   "accuracy": accuracy, "trained": trained_accuracy(known, tasks)}  # fmt: skip
            for group, classes in (("held out", held), ("never seen by the backbone", never)):
                shown = Means(recipe, classes, evidence, encoder.encode(classes))
                for way, count in [("words", 0), *product(("pictures", "both"), COUNTS[1:])]:
                    accuracy = narrow(shown, told, way, count, repeats)
                    yield {**who, "group": group, "way": way, "pictures": count, "accuracy": accuracy}


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    values = [r["accuracy"] for r in rows if (r["group"], r["way"], r["noise"]) == ("held out", "words", 0.0)]
    met = sum(values) / len(values) >= WORDS_ALONE
    return [
        aim("heads with 4 hidden units, second draw of nine, words", f"at least {WORDS_ALONE}", values, met)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(STEPS), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds of training, from 0")
    parser.add_argument("--zoo", type=Path, required=True, help="a canonical zoo of the recipe `specialists`")
    parser.add_argument("--draw", type=int, default=1, help="the seed of that zoo")
    parser.add_argument("--images", default="cifar100", help="the data set of a hundred classes")
    parser.add_argument("--backbone", required=True, help="its file")
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    parser.add_argument("--steps", type=int, help="of training, instead of the size's")
    options = parser.parse_args()
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(options, Path(folder)):
            rows.append(row)
            print(row, flush=True)
    seconds, seeds = time.perf_counter() - begin, range(options.seeds)
    print(
        write_result(
            "class_means", size=options.size, seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows)
        )
    )


if __name__ == "__main__":
    main()
