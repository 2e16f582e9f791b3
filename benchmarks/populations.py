"""Networks per minute: one at a time in plain PyTorch, against training many, beside the floor.

The floor is the floating-point work of a step over the speed of a matrix product measured here. Rates are
measured over some steps and scaled to the recipe's.

python -m benchmarks.populations [--steps 60] [--images imagefolder:PATH]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import aim, write_result
from canon.errors import InputError
from weightflow import datasets
from weightflow.architectures import Architecture
from weightflow.datasets import ClassificationData
from weightflow.zoo.recipe import ZooRecipe, read_recipe
from weightflow.zoo.tasks import Task
from weightflow.zoo.training import TrainingRecipe, mini_batches, together, train_many


@dataclass(frozen=True)
class Case:
    """A population, how many times faster than one at a time it is meant to be, and how many are timed."""

    name: str
    recipe: str
    changes: dict[str, Any]
    wanted: float
    networks: int


def cases(images: str | None) -> list[Case]:
    found = [
        Case("iris MLP", "iris", {}, 50, 250),
        Case("digits MLP", "digits", {}, 50, 250),
        Case("Fashion-MNIST MLP", "fashion_mnist", {}, 5, 32),
    ]
    if images is not None:
        found.append(Case("small CNN, ten of a hundred classes", "tina_cnn", {"dataset": images}, 1, 4))
    return found


def alone(
    architecture: Architecture, data: ClassificationData, task: Task, seed: int, recipe: TrainingRecipe
) -> None:
    """One network as a plain PyTorch script trains it."""
    torch.manual_seed(seed)
    module = architecture.build().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate)
    wanted = data.class_index(task.classes)
    position = torch.full((len(data.class_names),), -1)
    position[wanted] = torch.arange(len(wanted))
    rows = torch.nonzero(position[data.train.labels] >= 0).squeeze(1)
    for index in mini_batches([rows], recipe.batch_size, recipe.steps, [seed]):
        logits = module(data.train.inputs[index[0]])[:, : len(wanted)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, position[data.train.labels[index[0]]]).backward()
        optimizer.step()


def matrix_speed(size: int = 1024, repeats: int = 8) -> float:
    """Floating-point operations per second of a square product, the best of several."""
    a, best = torch.randn(size, size), float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def step_work(architecture: Architecture, batch: int) -> int:
    """Floating-point operations of one step of one network, forward and backward."""
    module, inputs = architecture.build().train(), architecture.example(batch)
    with FlopCounterMode(display=False) as counter:
        module(inputs).sum().backward()
    return counter.get_total_flops()


def measure(case: Case, plan: ZooRecipe, steps: int, speed: float) -> dict[str, Any]:
    data, architecture = datasets.load(plan.dataset), plan.make_architecture()
    tasks = plan.make_tasks()
    tasks = [tasks[i % len(tasks)] for i in range(case.networks)]
    short = replace(plan.training, steps=steps)
    few = tasks[: max(1, min(4, case.networks))]
    alone(architecture, data, tasks[0], 0, replace(short, steps=3))
    train_many(architecture, data, tasks, range(len(tasks)), replace(short, steps=3))  # warm
    begin = time.perf_counter()
    for seed, task in enumerate(few):
        alone(architecture, data, task, seed, short)
    one = (time.perf_counter() - begin) / len(few) / steps
    begin = time.perf_counter()
    train_many(architecture, data, tasks, range(len(tasks)), short)
    many = (time.perf_counter() - begin) / len(tasks) / steps
    floor, total = step_work(architecture, plan.training.batch_size) / speed, plan.training.steps
    return {
        "population": case.name,
        "parameters": architecture.parameters,
        "steps": total,
        "together": plan.training.together or together(architecture),
        "per_minute_alone": round(60 / (one * total), 2),
        "per_minute": round(60 / (many * total), 2),
        "per_minute_at_the_floor": round(60 / (floor * total), 2),
        "speedup": round(one / many, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed")
    parser.add_argument("--images", help="a data set of a hundred classes, for instance imagefolder:PATH")
    options = parser.parse_args()
    begin, speed = time.perf_counter(), matrix_speed()
    rows: list[dict[str, Any]] = []
    aims: list[dict[str, Any]] = []
    for case in cases(options.images):
        wanted = f"at least {case.wanted:g} times as many as one at a time"
        try:
            row = measure(case, read_recipe(case.recipe, case.changes), options.steps, speed)
        except InputError as error:  # the data set is not on this computer
            reason = str(error).splitlines()[0]
            rows.append({"population": case.name, "per_minute": None, "reason": reason})
            aims.append({"name": case.name, "aim": wanted, "value": None, "reason": reason, "met": False})
            continue
        print(row)
        rows.append(row)
        aims.append(aim(case.name, wanted, [row["speedup"]], row["speedup"] >= case.wanted))
    if options.images is None:
        reason = "no --images was given"
        aims.append({"name": "small CNN", "aim": "at least 1 times as many", "value": None, "reason": reason, "met": False})  # fmt: skip
    for name in ("linear heads", "adapters"):
        reason = "features of a frozen backbone are not built yet"
        wanted = f"at least {50 if name == 'linear heads' else 1} times as many as one at a time"
        aims.append({"name": name, "aim": wanted, "value": None, "reason": reason, "met": False})
    path = write_result(
        "populations",
        size=f"{options.steps} steps timed",
        seeds=[0],
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=aims,
    )
    print(path)


if __name__ == "__main__":
    main()
