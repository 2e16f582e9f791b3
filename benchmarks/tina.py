"""From words to classifiers (Tina, arXiv:2405.14132): classes seen, combined anew, and never seen.

Ten-class linear heads on a frozen backbone, and small CNNs, over CIFAR-100; class names through CLIP's text
tower (a table of vectors) or any other encoder. Nine classes are kept from the generator, seven more from the
backbone too. Each generator is asked for networks of every split, beside networks trained on the very tasks and
all baselines; then for tasks of two to twenty classes, with other names for the classes, and with images instead of words.

python -m benchmarks.tina --heads zoos/heads --encoder table:clip-vit-b32-text.npz

Zoos that are not given are built by their recipes in --folder: heads and wide need --images and --backbone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.common import aim, write_result
from weightflow import datasets
from weightflow.batched.tasks import Task
from weightflow.data.types import StoredInputs
from weightflow.evaluation.baselines import answer
from weightflow.evaluation.chance import chance
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.novelty import nearest_distances
from weightflow.generator.decode import decode
from weightflow.models.residual import AnchoredModel
from weightflow.text import Prompt
from weightflow.text.description import Description
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zero_shot.module import as_tokens
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

SPLITS = ("seen", "unseen_combinations", "unseen_classes", "unseen_by_backbone")
OPPONENTS = ("ridge_rows", "nearest_class", "zoo_mean_rows", "nearest_rows", "shuffled_prompt", "random_text")
# other names for the same thing, or for something very near it, that the table of CLIP vectors has too
OTHER_NAMES = {
    "bed": "mattress", "bottle": "flask", "bowl": "soup bowl", "bus": "school bus", "can": "tin can",
    "cattle": "cow", "chair": "armchair", "clock": "wall clock", "couch": "sofa", "crocodile": "alligator",
    "cup": "mug", "keyboard": "computer keyboard", "lamp": "lantern", "leopard": "cheetah", "mouse": "rat",
    "pickup truck": "truck", "plate": "dish", "seal": "sea lion", "skyscraper": "tower", "table": "desk",
    "telephone": "cell phone", "television": "television set", "turtle": "tortoise", "wardrobe": "armoire",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A preset and what is changed in it; `cheaper`: so many of its steps at the small size cost one of ours."""

    preset: str
    changes: dict[str, Any] = field(default_factory=dict)
    cheaper: int = 1


PLAIN, SILENT = "weightflow, no anchors", "weightflow, no anchors, no behaviour"
BEYOND = "weightflow, no anchors, behaviour beyond the zoo"
CENTRED = {"model": {"centred": True}}
ANCHORS = {"anchors": {"kind": "regression"}}
VARIANTS = {
    "weightflow": Variant("weightflow", ANCHORS),
    PLAIN: Variant("weightflow", CENTRED),
    SILENT: Variant("weightflow", {**CENTRED, "behaviour": {"weight": 0.0}}),
    BEYOND: Variant("weightflow", {**CENTRED, "behaviour": {"beyond": 0.5}}),
    "tina": Variant("tina", cheaper=5),
    "tina, a block a row": Variant("tina", {"chunk": 512}, cheaper=5),
    "tina, words as they are": Variant("tina", {"model": {"centred": False, "positions": 0.02}}, cheaper=5),
}
# a step on whole CNNs costs many of one on heads
CNNS = {
    "small": {"batch_size": 16, "steps": 150, "evaluate_every": 50, "save_every": 150},
    "paper": {},
}
# steps of training by size; `tina` is the preset of that name at its small size
STEPS = {"small": 400, "paper": 20_000}
# image prompts: the CLIP of random weights where none is named, steps, images a class, networks a split
CLIP, IMAGE_STEPS, SHOTS, SHOWN = "ViT-B-32", 100, (1, 5), 20
NETWORKS = {"heads": {"small": 100, "paper": 1000}, "cnns": {"small": 40, "paper": 200}}


def trained_generator(
    zoo: Zoo, variant: Variant, seed: int, options: argparse.Namespace
) -> tuple[EvaluationContext, float]:
    """The generator, and the seconds that its training took."""
    small = options.size == "small"
    name = f"{variant.preset}-small" if small and variant.preset == "tina" else variant.preset
    steps = STEPS[options.size] * (variant.cheaper if small else 1)
    changes = {"seed": seed, "encoder": options.encoder, "steps": steps, "evaluate_every": 100}
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    begin = time.perf_counter()
    start(
        zoo,
        read_preset(name, {**changes, "save_every": steps, **variant.changes}),
        folder / "run",
    ).run()
    return open_context(folder / "run"), time.perf_counter() - begin


def accuracy(context: EvaluationContext, state: dict[str, Any], tasks: Sequence[Task]) -> float:
    return float(evaluate_networks(context.zoo.architecture, state, tasks).accuracy.mean())


def anchors_alone(context: EvaluationContext, tasks: Sequence[Task]) -> dict[str, Any]:
    """What the closed form says, and the flow adds nothing; beside the class rows, the mean of the zoo."""
    words, flow = context.flow.prompts([Prompt(t.classes) for t in tasks]), context.flow
    assert isinstance(flow.model, AnchoredModel)
    rows = flow.model.anchors(words.vectors)[0] * words.present.unsqueeze(-1)
    return decode(flow.coordinates, as_tokens(flow.coordinates.layout, rows), words)


def rows_of(context: EvaluationContext, who: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """A row a split: generated, trained on the same tasks, chance; baselines beside the full generator."""
    for split in SPLITS:
        rows = context.zoo.rows(split)[:most]
        if not rows:
            continue
        tasks, seed = context.tasks_of(rows), who["seed"]
        made = context.flow.sample_states(
            [Prompt(t.classes) for t in tasks], range(seed, seed + len(tasks)), context.config
        )
        row = {
            **who,
            "table": "splits",
            "split": split,
            "ways": max(len(t.classes) for t in tasks),
            "networks": len(tasks),
            "accuracy": accuracy(context, made, tasks),
            "trained": accuracy(context, context.zoo.load(rows), tasks),
            "chance": chance(tasks),
        }
        if context.is_canonical and split in SPLITS[:2]:  # other classes have no rows in the zoo
            row["nearest_distance_ratio"] = float(nearest_distances(context, made, tasks).ratios.mean())
        if who["variant"] == "weightflow":
            row["anchors_alone"] = accuracy(context, anchors_alone(context, tasks), tasks)
            row |= {name: accuracy(context, answer(context, name, tasks, seed), tasks) for name in OPPONENTS}
        yield row


def other_names(context: EvaluationContext, who: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Every class that has another name is called by it; the same tasks by their own names beside it."""
    for split in SPLITS[1:]:
        tasks = context.tasks_of(context.zoo.rows(split)[:most])
        if not tasks:
            continue
        said = [
            Prompt(t.classes, tuple(Description(c, (OTHER_NAMES.get(c, c),)) for c in t.classes))
            for t in tasks
        ]
        seeds = range(who["seed"], who["seed"] + len(tasks))
        found = {
            name: accuracy(context, context.flow.sample_states(prompts, seeds, context.config), tasks)
            for name, prompts in (("accuracy", said), ("own_names", [Prompt(t.classes) for t in tasks]))
        }
        renamed = sum(c in OTHER_NAMES for t in tasks for c in t.classes) / sum(len(t.classes) for t in tasks)
        yield {**who, "table": "other names", "split": split, "renamed": renamed, **found}


def by_ways(context: EvaluationContext, who: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Combinations never seen, by their number of classes."""
    rows = context.zoo.rows("unseen_combinations")
    for low, high in ((2, 5), (6, 10), (11, 15), (16, 20)):
        some = [i for i in rows if low <= len(context.zoo.records[i].classes) <= high]
        if not some:
            continue
        tasks = context.tasks_of(some)
        made = context.flow.sample_states(
            [Prompt(t.classes) for t in tasks], range(len(tasks)), context.config
        )
        yield {
            **who, "table": "ways", "ways": f"{low} to {high}", "networks": len(tasks),
            "accuracy": accuracy(context, made, tasks), "chance": chance(tasks),
            "trained": accuracy(context, context.zoo.load(some), tasks),
            "ridge_rows": accuracy(context, answer(context, "ridge_rows", tasks, 0), tasks),
        }  # fmt: skip


def pictures(images: str, classes: Sequence[str], each: int, folder: Path) -> dict[str, tuple[str, ...]]:
    """Files with the first training images of each class."""
    data, found = datasets.load(images), {}
    assert isinstance(data.train.inputs, StoredInputs)
    for name, label in zip(classes, data.class_index(classes), strict=True):
        rows = torch.nonzero(data.train.labels == label).squeeze(1)[:each]
        raw = data.train.inputs.stored[data.train.inputs.rows[rows]].permute(0, 2, 3, 1).numpy()
        found[name] = tuple(str(folder / f"{label}-{i}.png") for i in range(len(raw)))
        for file, pixels in zip(found[name], raw, strict=True):
            Image.fromarray(pixels).save(file)
    return found


def checkpoint_of(options: argparse.Namespace) -> str:
    """The CLIP that was named; without one, a checkpoint of random weights, which shows the code path alone."""
    if options.clip:
        return str(options.clip)
    import open_clip

    path = options.folder / "random-clip.pt"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(CLIP).state_dict(), path)
    return f"open_clip:{CLIP}:{path}"


def image_prompts(zoo: Zoo, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Classes shown by one or several training images each, beside the same tasks in words."""
    own = argparse.Namespace(**{**vars(options), "encoder": checkpoint_of(options)})
    for seed in range(options.seeds):
        known, _ = trained_generator(zoo, Variant("weightflow", {**ANCHORS, "steps": IMAGE_STEPS}), seed, own)
        for split in SPLITS[1:]:
            tasks = known.tasks_of(known.zoo.rows(split)[:SHOWN])
            if not tasks:
                continue
            seeds = range(seed, seed + len(tasks))
            shown = pictures(
                options.images, sorted({c for t in tasks for c in t.classes}), max(SHOTS), own.folder
            )
            prompts = {"accuracy_in_words": [Prompt(t.classes) for t in tasks]}
            for shots in SHOTS:
                prompts[f"accuracy_of_{shots}_images"] = [
                    Prompt(t.classes, tuple(Description(c, (), shown[c][:shots]) for c in t.classes))
                    for t in tasks
                ]
            found = {
                name: accuracy(known, known.flow.sample_states(said, seeds, known.config), tasks)
                for name, said in prompts.items()
            }
            weights = options.clip or "random, so that figures show the code path alone"
            yield {
                "table": "image prompts", "zoo": "heads", "seed": seed, "split": split, "networks": len(tasks),
                "weights": weights, "chance": chance(tasks), **found,
            }  # fmt: skip


def zoos(options: argparse.Namespace) -> Iterator[tuple[str, Zoo]]:
    """Those given, and those that recipes can build from what is given."""
    tasks = {"sizes": [2, 20], "seen": 300, "validation": 40, "unseen": 80, "unseen_classes": 0}
    tasks |= {"held_out": 9, "unseen_by_backbone": 0}
    recipes: dict[str, tuple[str, dict[str, Any]]] = {
        "heads": ("tina_head", {}),
        "wide": ("tina_head", {"tasks": tasks}),
    }
    for name in ("heads", "wide", "cnns"):
        given = getattr(options, name)
        if given is None and name in recipes and options.backbone:
            recipe, changes = recipes[name]
            given = options.folder / name
            data = {"dataset": f"{options.images} through {options.backbone}"}
            build_zoo(read_recipe(recipe, {**data, **changes}), given)
        if given is not None:
            yield name, in_one_frame(Zoo(given), options.folder / f"{name}-canonical")


def in_one_frame(zoo: Zoo, folder: Path) -> Zoo:
    if not folder.exists():
        canonicalize_zoo(zoo, folder)
    return Zoo(folder)


def missing(name: str, wanted: str, reason: str) -> dict[str, Any]:
    return {"name": name, "aim": wanted, "value": None, "interval": None, "met": False, "reason": reason}


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def least(
        name: str, zoo: str, split: str, wanted: float, of: Callable[[dict[str, Any]], float]
    ) -> dict[str, Any]:
        own = [
            r for r in rows
            if (r["table"], r.get("zoo"), r.get("variant"), r.get("split")) == ("splits", zoo, "weightflow", split)
        ]  # fmt: skip
        if not own:
            return missing(name, f"at least {wanted}", f"no zoo '{zoo}' with this split in this run")
        values = [of(r) for r in own]
        return aim(name, f"at least {wanted}", values, sum(values) / len(values) >= wanted)

    def share(row: dict[str, Any]) -> float:
        return row["accuracy"] / row["trained"]

    def plain(row: dict[str, Any]) -> float:
        return row["accuracy"]

    def ahead(row: dict[str, Any]) -> float:
        return row["accuracy"] - row["ridge_rows"]

    return [
        least("heads, unseen combinations, share of trained", "heads", "unseen_combinations", 0.995, share),
        least("CNNs, unseen combinations, share of trained", "cnns", "unseen_combinations", 0.97, share),
        least("heads, nine unseen classes, accuracy", "heads", "unseen_classes", 0.68, plain),
        least("heads, seven classes unseen by the backbone, accuracy", "heads", "unseen_by_backbone", 0.58, plain),
        least("heads, nine unseen classes, points of 1 above ridge regression", "heads", "unseen_classes", 0.05, ahead),
    ]  # fmt: skip


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, zoo in zoos(options):
        for variant in options.variants if name == "heads" else ["weightflow"]:
            for seed in range(options.seeds):
                chosen, most = VARIANTS[variant], NETWORKS.get(name, {}).get(options.size, 0)
                if name == "cnns":
                    chosen = replace(chosen, changes={**chosen.changes, **CNNS[options.size]})
                known, seconds = trained_generator(zoo, chosen, seed, options)
                who = {"zoo": name, "variant": variant, "seed": seed}
                if name == "wide":
                    yield from by_ways(known, who)
                    continue
                for row in rows_of(known, who, most):
                    yield {**row, "training_seconds": round(seconds, 1)}
                if variant == "weightflow" and options.encoder.startswith("table:"):
                    yield from other_names(known, who, most)
        if name == "heads":
            yield from image_prompts(zoo, options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(STEPS), default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    parser.add_argument("--images", default="cifar100", help="the data set of a hundred classes")
    parser.add_argument("--backbone", help="its file, to build zoos of heads")
    for name, what in (
        ("heads", "ten-class heads"),
        ("wide", "heads of 2 to 20 classes"),
        ("cnns", "whole CNNs"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=f"a zoo of {what}")
    parser.add_argument("--clip", help="for image prompts: open_clip:MODEL:FILE (default: random weights)")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, help="where zoos and runs go; by default they do not stay")
    options = parser.parse_args()
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        for row in measure(options):
            rows.append(row)
            print(row, flush=True)
    seconds = time.perf_counter() - begin
    size, seeds = options.size, range(options.seeds)
    print(write_result("tina", size=size, seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows)))


if __name__ == "__main__":
    main()
