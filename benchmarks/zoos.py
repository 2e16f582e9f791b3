"""The real zoos: built by their recipes, judged on test images beside chance, a row a zoo.

Zoos are kept in a folder and only what is missing is trained, so that a row can be measured again alone;
rows of zoos that are not asked for stay as they were.

    python -m benchmarks.zoos heads adapters --folder zoos --backbone backbone.safetensors \
        --images imagefolder:cifar100.zip --encoder table:clip-vit-b32-text.npz
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, environment, read_result, write_result
from canon.errors import InputError
from weightflow.evaluate import Spread, chance, judge
from weightflow.zoo.executors import build_with
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Population:
    """A zoo by its recipe, and what is wanted of it: so many networks, and so accurate on the split `seen`."""

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    networks: int = 0
    accuracy: float | None = None


def populations(options: argparse.Namespace) -> dict[str, Population]:
    features = f"{options.images} through {options.backbone}"
    text = {"readout": {"encoder": options.encoder}} if options.encoder else {}
    tasks = {"seen": 1000, "validation": 100, "unseen": 200}
    return {
        "heads": Population("tina_head", {"dataset": features}, networks=1000),
        "adapters": Population("t2w_adapter", {"dataset": features, "tasks": tasks, **text}, networks=1000),
        "cnns": Population(
            "tina_cnn", {"dataset": options.images, "tasks": {"seen": 300, "validation": 30, "unseen": 60}},
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
        accuracy = judge(zoo.architecture, zoo.load(rows), tasks).accuracy
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
    parser.add_argument("--folder", type=Path, default=Path("zoos"), help="where zoos are kept")
    parser.add_argument("--images", default="cifar100", help="the data set of a hundred classes")
    parser.add_argument(
        "--backbone", default="backbone.safetensors", help="trained on it by weightflow backbone"
    )
    parser.add_argument("--encoder", help="of the class names, for adapters; the recipe's by default")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    known = populations(options)
    begin = time.perf_counter()
    rows = {
        row["zoo"]: row for row in (read_result("zoos")["rows"] if (RESULTS / "zoos.json").exists() else [])
    }
    for name in options.zoos or known:
        if name not in known:
            raise InputError(f"no zoo is called '{name}'; there are: {', '.join(known)}")
        rows[name] = measure(name, known[name], options.folder, options.workers)
        print(rows[name], flush=True)
    ordered = [rows[name] for name in known if name in rows]
    path = write_result(
        "zoos", size="paper recipes, fewer networks", seeds=[0], seconds=time.perf_counter() - begin,
        rows=ordered, aims=aims(ordered, known),
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
