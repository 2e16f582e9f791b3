"""Classes that nobody has seen, from words, a few pictures, or both: linear heads, and heads of four hidden units.

Nine classes are held out; what words and pictures say of a class is fitted to the classes left, its settings by hiding
these in turn (`weightflow/zero_shot/fit_evidence.py`). Then some training images of the nine, redrawn many times, show
them, and networks that tell the nine apart are judged on test images. The rows of linear heads are those that a run with
anchors gives to unseen classes, up to a scale and a shift that all classes share. `--runs` measures narrow heads too:
runs of the recipe `specialists` whose zoo has the same seed as the second draw, asked with the class vectors that
words and pictures predict.

Draw 0 is the nine of the recipe `tina_head`, which were looked at while the method was made; draw 1 is another nine that
nothing was chosen on. The classes that the backbone has never seen are a third group.

python -m benchmarks.pictures --images DATASET --backbone FILE --encoder table:vectors.npz --runs RUN ...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import aim, write_result
from weightflow import datasets
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.generator.decode import decode
from weightflow.networks.architectures import Architecture
from weightflow.text import PromptBatch, load_encoder
from weightflow.zero_shot.evidence import Evidence
from weightflow.zero_shot.fit_evidence import fit_evidence
from weightflow.zoo.recipe import ZooRecipe, read_recipe

COUNTS = (0, 1, 2, 5, 10, 20)
ALL = 10_000  # every training image of a class: what pictures can say at most
REPEATS = {"small": 20, "paper": 100}
WANTED = {0: 0.52, 1: 0.60, 5: 0.71, 10: 0.75}
FIRST, FRESH = "first draw of nine", "second draw of nine"


class Shown:
    """Unseen classes, and features of training images that show them."""

    def __init__(self, recipe: ZooRecipe, classes: Sequence[str], evidence: Evidence, words: Tensor) -> None:
        self.classes, self.evidence, self.words = tuple(classes), evidence, words
        data = datasets.load(recipe.dataset)
        labels = data.class_index(classes)
        self.own = [data.train.inputs[torch.nonzero(data.train.labels == i).squeeze(1)] for i in labels]
        self.task = Task(recipe.dataset, self.classes, "unseen_classes")

    def drawn(self, way: str, count: int, repeat: int) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Of each class its word vector, or None, and its pictures."""
        g = torch.Generator().manual_seed(repeat)
        for vector, own in zip(self.words, self.own, strict=True):
            order = torch.randperm(len(own), generator=g)[: 0 if way == "words" else count]
            yield None if way == "pictures" else vector, own[order]

    def rows(self, way: str, count: int, repeat: int) -> Tensor:
        means = [self.evidence.mean(*shown) for shown in self.drawn(way, count, repeat)]
        return self.evidence.row(torch.stack(means))

    def vectors(self, way: str, count: int, repeat: int) -> Tensor:
        return torch.stack([self.evidence.vector(*shown) for shown in self.drawn(way, count, repeat)])


def linear(shown: Shown, architecture: Architecture, way: str, count: int, repeats: int) -> float:
    """Mean accuracy of linear heads on test images."""
    rows = torch.stack([shown.rows(way, count, repeat) for repeat in range(repeats)])
    empty = architecture.classes - rows.shape[1]
    rows = torch.nn.functional.pad(rows, (0, 0, 0, empty))
    state = {"weight": rows[..., :-1], "bias": rows[..., -1]}
    return float(evaluate_networks(architecture, state, [shown.task] * repeats).accuracy.mean())


def narrow(shown: Shown, context: EvaluationContext, way: str, count: int, repeats: int) -> float:
    """As `linear`, of networks that a run makes of the predicted class vectors."""
    own = torch.stack([shown.vectors(way, count, repeat) for repeat in range(repeats)])
    empty, flow = context.zoo.architecture.classes - own.shape[1], context.flow
    vectors = torch.nn.functional.pad(own, (0, 0, 0, empty))
    present = (torch.arange(vectors.shape[1]) < own.shape[1]).expand(repeats, -1)
    words = PromptBatch(vectors, present)
    noise = context.config.noise * flow.noise(range(repeats), present)
    state = decode(flow.coordinates, flow.tokens(words, noise, context.config, seeds=range(repeats)), words)
    return float(evaluate_networks(context.zoo.architecture, state, [shown.task] * repeats).accuracy.mean())


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    encoder, runs = load_encoder(options.encoder), [open_context(run) for run in options.runs]
    repeats = REPEATS[options.size]
    for draw, name in enumerate((FIRST, FRESH)):
        recipe = read_recipe(
            "tina_head", {"dataset": f"{options.images} through {options.backbone}", "seed": draw}
        )
        held, never = recipe.held_out_classes(), recipe.excluded_classes()
        left = [n for n in recipe.tasks.classes if n not in {*held, *never}]
        evidence = fit_evidence(datasets.load(recipe.dataset), left, encoder.encode(left))
        fitted = {
            "floor": float(evidence.floor),
            "scale": float(evidence.spread[0]),
            "mix": float(evidence.spread[1]),
        }
        groups = {name: held} if draw == 0 else {name: held, "classes that the backbone never saw": never}
        for group, classes in groups.items():
            shown = Shown(recipe, classes, evidence, encoder.encode(classes))
            mine = [run for run in runs if set(run.flow.known_classes) == set(left)] if draw else []
            asked = [("words", 0), *product(("pictures", "both"), COUNTS[1:]), ("pictures", ALL)]
            for way, count in asked:
                row = {"group": group, "classes": classes, "way": way, "pictures": count, "repeats": repeats}
                accuracy = linear(shown, recipe.make_architecture(), way, count, repeats)
                yield {**row, "networks": "linear heads", "accuracy": accuracy, **fitted}
                for run in mine:
                    accuracy = narrow(shown, run, way, count, repeats)
                    seed = run.flow.header.config.seed
                    yield {**row, "networks": "heads with 4 hidden units", "seed": seed, "accuracy": accuracy}


def figure(rows: list[dict[str, Any]], networks: str, group: str, way: str, pictures: int) -> float:
    """Mean over runs; words are what words and pictures are without pictures."""
    way = way if pictures else "words"
    own = [
        r["accuracy"]
        for r in rows
        if (r["networks"], r["group"], r["way"], r["pictures"]) == (networks, group, way, pictures)
    ]
    return sum(own) / len(own)


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for group, (count, wanted) in product((FIRST, FRESH), WANTED.items()):
        value = figure(rows, "linear heads", group, "both", count)
        found.append(
            aim(f"linear heads, {group}, {count} pictures", f"at least {wanted}", [value], value >= wanted)
        )
    gains = []
    for group in dict.fromkeys(r["group"] for r in rows):
        words = figure(rows, "linear heads", group, "words", 0)
        for count in COUNTS[1:]:
            alone = figure(rows, "linear heads", group, "pictures", count)
            gains.append(100 * (figure(rows, "linear heads", group, "both", count) - max(words, alone)))
    found.append(
        aim(
            "least gain over words alone and pictures alone, points",
            "at least 0",
            [min(gains)],
            min(gains) >= 0,
        )
    )
    if any(r["networks"] != "linear heads" for r in rows):
        value = figure(rows, "heads with 4 hidden units", FRESH, "words", 0)
        found.append(
            aim(f"heads with 4 hidden units, {FRESH}, words", "at least 0.45", [value], value >= 0.45)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(REPEATS), default="small")
    parser.add_argument("--images", default="cifar100", help="the data set of a hundred classes")
    parser.add_argument("--backbone", required=True, help="its file")
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    parser.add_argument(
        "--runs", type=Path, nargs="*", default=[], help="of narrow heads, to be measured too"
    )
    options = parser.parse_args()
    begin, rows = time.perf_counter(), []
    for row in measure(options):
        rows.append(row)
        print(row, flush=True)
    seconds = time.perf_counter() - begin
    print(
        write_result("pictures", size=options.size, seeds=[0, 1], seconds=seconds, rows=rows, aims=aims(rows))
    )


if __name__ == "__main__":
    main()
