"""The real zoos: built by their recipes, judged on test images beside chance, a row a zoo.

Zoos are kept in a folder and only what is missing is trained, so that a row can be measured again alone;
rows of zoos that are not asked for stay as they were.

    python -m benchmarks.zoos [heads adapters cnns ...]

WEIGHTFLOW_ZOOS is the folder of the zoos and of backbone.safetensors (./zoos by default), WEIGHTFLOW_SHARED the
one that has data/cifar100-300.zip and data/clip-vit-b32-text.npz (../shared). The backbone is made by

    weightflow backbone train imagefolder:$WEIGHTFLOW_SHARED/data/cifar100-300.zip --set epochs=12 \
        --exclude "bicycle, table, spider, chair, skyscraper, lizard, plate" --out $WEIGHTFLOW_ZOOS/backbone.safetensors
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, environment, read_result, write_result
from canon.errors import InputError
from weightflow.evaluation.chance import chance
from weightflow.evaluation.evaluate import Spread, evaluate_networks
from weightflow.zoo.builders.parallel import build_with
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Population:
    """A zoo by its recipe, and what is wanted of it: so many networks, and so accurate on the split `seen`."""

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    networks: int = 0
    accuracy: float | None = None


@dataclass(frozen=True)
class Places:
    """Where zoos are kept and where the data of a hundred classes lie, by the environment."""

    zoos: Path
    images: str
    features: str
    encoder: str


def places() -> Places:
    zoos = Path(os.environ.get("WEIGHTFLOW_ZOOS", "zoos"))
    shared = Path(os.environ.get("WEIGHTFLOW_SHARED", ROOT.parent / "shared"))
    images = f"imagefolder:{shared}/data/cifar100-300.zip"
    features = f"{images} through {zoos}/backbone.safetensors"
    return Places(zoos, images, features, f"table:{shared}/data/clip-vit-b32-text.npz")


def populations() -> dict[str, Population]:
    images, features = places().images, places().features
    text = {"encoder": places().encoder}
    tasks = {"seen": 1000, "validation": 100, "unseen": 200}
    return {
        "iris": Population("iris", {"tasks": {"seen": 500}}, networks=500),
        "fashion": Population("fashion_mnist", networks=100, accuracy=0.885),
        "heads": Population("tina_head", {"dataset": features}, networks=1000),
        "adapters": Population("t2w_adapter", {"dataset": features, "tasks": tasks, "readout": text}, networks=1000),
        "cnns": Population(
            "tina_cnn", {"dataset": images, "tasks": {"seen": 300, "validation": 30, "unseen": 40, "unseen_classes": 20}},
            networks=300,
        ),
    }  # fmt: skip


def measure(name: str, wanted: Population, folder: Path, workers: int) -> dict[str, Any]:
    """Build or complete the zoo and judge it."""
    plan = read_recipe(wanted.recipe, wanted.changes)
    build_with("local", plan, folder / name, lambda networks: None, workers)
    zoo = Zoo(folder / name)
    splits = {}
    for split in dict.fromkeys(record.split for record in zoo.records):
        rows = zoo.rows(split)
        tasks = [zoo.records[i].task for i in rows]
        accuracy = evaluate_networks(zoo.architecture, zoo.load(rows), tasks).accuracy
        splits[split] = {
            "networks": len(rows),
            "classes": sorted({len(task.classes) for task in tasks}),
            **Spread.of(accuracy).to_dict(),
            "chance": round(chance(tasks), 6),
        }
    return {
        "zoo": name,
        "recipe": wanted.recipe,
        "networks": len(zoo),
        "parameters": zoo.architecture.parameters,
        "lineage": plan.lineage,
        "splits": splits,
        "commit": environment()["commit"],
    }


def aims(rows: list[dict[str, Any]], known: dict[str, Population]) -> list[dict[str, Any]]:
    found = {row["zoo"]: row for row in rows}
    result = []
    for name, wanted in known.items():
        row, reason = found.get(name), {"reason": "not built in any run"}
        if wanted.networks:
            count = row and row["splits"]["seen"]["networks"]
            result.append({
                "name": f"{name}: networks to learn from", "aim": f"at least {wanted.networks}", "value": count,
                **({} if row else reason), "interval": None, "met": bool(count and count >= wanted.networks),
            })  # fmt: skip
        if wanted.accuracy is not None:
            mean = row and row["splits"]["seen"]["mean"]
            result.append({
                "name": f"{name}: mean test accuracy", "aim": f"at least {wanted.accuracy}", "value": mean,
                **({} if row else reason), "interval": None, "met": bool(mean and mean >= wanted.accuracy),
            })  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoos", nargs="*", help="which; all by default")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folder, known = places().zoos, populations()
    begin = time.perf_counter()
    rows = {
        row["zoo"]: row for row in (read_result("zoos")["rows"] if (RESULTS / "zoos.json").exists() else [])
    }
    for name in options.zoos or known:
        if name not in known:
            raise InputError(f"unknown zoo '{name}'; there are: {', '.join(known)}")
        rows[name] = measure(name, known[name], folder, options.workers)
        print(rows[name], flush=True)
    ordered = [rows[name] for name in known if name in rows]
    path = write_result(
        "zoos", size="paper recipes, fewer networks", seeds=[0], seconds=time.perf_counter() - begin,
        rows=ordered, aims=aims(ordered, known),
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
