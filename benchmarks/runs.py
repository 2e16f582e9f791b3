"""What the benchmarks of a finished run share: its command line, and the tasks that a seed draws."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_result
from canon.errors import InputError
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.zoo.network_file import Network
from weightflow.zoo.store import Zoo

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Demo:
    """The generator of a demo, and the zoo as it was trained, not aligned."""

    flow: Flow
    zoo: Zoo

    def network(self, row: int) -> Network:
        record = self.zoo.records[row]
        return Network(self.zoo.load([row]), Prompt(record.classes), record.dataset)


@dataclass(frozen=True)
class Subject:
    """What was made before and is measured now: the option that names its folder, and how it is opened."""

    option: str
    folder: Path
    help: str
    open: Callable[[Path], Any]


def _open_run(folder: Path) -> EvaluationContext:
    _require(
        folder, f"there is no run in {folder}; make one: weightflow demo --out {folder.parent}, or give --run"
    )
    return open_context(folder)


def _open_demo(folder: Path) -> Demo:
    _require(folder / "run", f"there is no demo in {folder}; make one: weightflow demo --out {folder}")
    return Demo(Flow(folder / "run"), Zoo(folder / "zoo"))


def _require(run: Path, message: str) -> None:
    if not (run / "config.toml").exists():
        sys.exit(message)


RUN = Subject("run", Path("demo/run"), "folder of a run; its zoo is where it was", _open_run)
DEMO = Subject("demo", Path("demo"), "folder that `weightflow demo` made", _open_demo)


def main(
    name: str,
    description: str | None,
    subject: Subject,
    measure: Callable[[Any, int, str], Rows],
    aims: Callable[[Rows], Rows],
) -> None:
    """Ask for the subject, `measure` it with every seed at the size that was asked for, write the result."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument(f"--{subject.option}", type=Path, default=subject.folder, help=subject.help)
    given = parser.parse_args()
    begin, seeds = time.perf_counter(), range(given.seeds)
    opened = subject.open(getattr(given, subject.option))
    try:
        rows = [row for seed in seeds for row in measure(opened, seed, given.size)]
    except InputError as error:  # a data set is not on this computer
        sys.exit(str(error))
    seconds, name = time.perf_counter() - begin, _result_name(name, opened.zoo)
    print(write_result(name, size=given.size, seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows)))


def _result_name(name: str, zoo: Zoo) -> str:
    """`name` for the demo's digits, `name_dataset` for other data."""
    dataset = "".join(c if c.isalnum() else "_" for c in zoo.dataset)
    return name if dataset == "digits" else f"{name}_{dataset[:40].strip('_')}"


def unseen_tasks(context: EvaluationContext, seed: int, count: int) -> list[Task]:
    """Combinations that the generator never saw, each once; the one task where all networks have one."""
    rows = context.zoo.rows("unseen_combinations")
    if context.one_task or not rows:
        return context.tasks[:count] if context.one_task else context.tasks_of(context.rows[:count])
    tasks = list({frozenset(t.classes): t for t in context.tasks_of(rows)}.values())
    order = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed))[:count]
    return [tasks[i] for i in order.tolist()]
