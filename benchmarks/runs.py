"""What the benchmarks of a finished run share: its options, and the tasks that a seed draws."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from weightflow.known import Known, open_known
from weightflow.zoo.tasks import Task


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument(
        "--run", type=Path, default=Path("demo/run"), help="folder of a run; its zoo is where it was"
    )
    return parser.parse_args()


def opened(folder: Path) -> Known:
    if not (folder / "config.toml").exists():
        sys.exit(
            f"there is no run in {folder}; make one: weightflow demo --out {folder.parent}, or give --run"
        )
    return open_known(folder)


def result_name(name: str, known: Known) -> str:
    """`name` for the demo's digits, `name_dataset` for other data."""
    dataset = "".join(c if c.isalnum() else "_" for c in known.zoo.dataset)
    return name if dataset == "digits" else f"{name}_{dataset[:40].strip('_')}"


def unseen_tasks(known: Known, seed: int, count: int) -> list[Task]:
    """Combinations that the generator never saw, each once; the one task where all networks have one."""
    rows = known.zoo.rows("unseen_combinations")
    if known.one_task or not rows:
        return known.tasks[:count] if known.one_task else known.tasks_of(known.rows[:count])
    tasks = list({frozenset(t.classes): t for t in known.tasks_of(rows)}.values())
    order = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed))[:count]
    return [tasks[i] for i in order.tolist()]
