"""Networks per minute: one at a time in plain PyTorch, against training many, beside the floor.

One at a time is a script of one process and all threads. Many are built as `weightflow zoo build --workers`
builds them: one process a core, one thread each. Both are timed over some steps, setting up apart, and scaled
to the recipe's, without its early stopping. The floor is the floating-point work of the steps over the speed
of a matrix product of the recipe's precision, measured here on all threads.

The data of a hundred classes and their backbone lie where `benchmarks.zoos` finds them.

    python -m benchmarks.populations [--steps 60]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import aim, write_result
from benchmarks.zoos import places
from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.batched.config import OPTIMIZERS, TrainingRecipe
from weightflow.batched.group_size import networks_per_group
from weightflow.batched.minibatches import mini_batches
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.datasets import ClassificationData
from weightflow.networks.architectures import Architecture
from weightflow.zoo.recipe import ZooRecipe, read_recipe


@dataclass(frozen=True)
class Case:
    """A population, how many times faster than one at a time it is meant to be, and how many are timed."""

    name: str
    recipe: str
    wanted: float
    networks: int
    changes: dict[str, Any] = field(default_factory=dict)


def cases() -> list[Case]:
    found = places()
    return [
        Case("iris MLP", "iris", 50, 500),
        Case("digits MLP", "digits", 50, 250),
        Case("Fashion-MNIST MLP", "fashion_mnist", 5, 25),
        Case("small CNN, ten of a hundred classes", "tina_cnn", 3, 2, {"dataset": found.images}),
        Case("linear heads, ten of a hundred classes", "tina_head", 100, 250, {"dataset": found.features}),
        Case("adapters", "t2w_adapter", 1, 100,
             {"dataset": found.features, "readout": {"encoder": found.encoder}}),
    ]  # fmt: skip


def alone(
    architecture: Architecture, data: ClassificationData, task: Task, seed: int, recipe: TrainingRecipe
) -> None:
    """One network as a plain PyTorch script trains it."""
    torch.manual_seed(seed)
    module = architecture.build().train()
    optimizer = OPTIMIZERS[recipe.optimizer](module.parameters(), lr=recipe.learning_rate)
    wanted = data.class_index(task.classes)
    position = torch.full((len(data.class_names),), -1)
    position[wanted] = torch.arange(len(wanted))
    rows = torch.nonzero(position[data.train.labels] >= 0).squeeze(1)
    text = architecture.readout.targets([task.classes], len(wanted))
    for index in mini_batches([rows], recipe.batch_size, recipe.steps, [seed]):
        output = module(data.train.inputs[index[0]])
        scores = architecture.readout.scores(output.unsqueeze(0), text)[0, :, : len(wanted)]
        optimizer.zero_grad()
        functional.cross_entropy(scores, position[data.train.labels[index[0]]]).backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
        optimizer.step()


def matrix_speed(dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    """Floating-point operations per second of a square product, the best of several."""
    a, best = torch.randn(size, size).to(dtype), float("inf")
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


def seconds_alone(plan: ZooRecipe, steps: int, networks: int) -> float:
    """Of one network of the whole recipe."""
    data, architecture, tasks = datasets.load(plan.dataset), plan.make_architecture(), plan.make_tasks()
    short = replace(plan.training, steps=steps)
    alone(architecture, data, tasks[0], 0, replace(short, steps=3))  # warm
    begin = time.perf_counter()
    for seed, task in enumerate(tasks[:networks]):
        alone(architecture, data, task, seed, short)
    return (time.perf_counter() - begin) / networks / steps * plan.training.steps


def _work(plan: ZooRecipe, networks: int, steps: int, together_now: Any, results: Any) -> None:
    torch.set_num_threads(1)
    data, architecture, tasks = datasets.load(plan.dataset), plan.make_architecture(), plan.make_tasks()
    tasks, times = [tasks[i % len(tasks)] for i in range(networks)], []
    for count in (3, steps, 4 * steps):  # the first to warm up
        together_now.wait()
        begin = time.perf_counter()
        train_many(architecture, data, tasks, range(networks), replace(plan.training, steps=count))
        times.append(time.perf_counter() - begin)
    results.put(times)


def seconds_of_many(plan: ZooRecipe, networks: int, steps: int, workers: int) -> float:
    """Of one network of the whole recipe, when `workers` processes train `networks` each at the same time."""
    context = multiprocessing.get_context("spawn")
    together_now, results = context.Barrier(workers), context.Queue()
    crew = [
        context.Process(target=_work, args=(plan, networks, steps, together_now, results))
        for _ in range(workers)
    ]
    for worker in crew:
        worker.start()
    times = np.array([results.get() for _ in crew]).max(0).tolist()
    for worker in crew:
        worker.join()
    # where noise is larger than what is measured, setting up counts as work
    each = (times[2] - times[1]) / (3 * steps) if times[2] > times[1] else times[2] / (4 * steps)
    setting_up = max(0.0, times[1] - steps * each)
    return (setting_up + each * plan.training.steps) / (workers * networks)


def measure(case: Case, steps: int, workers: int, speeds: dict[torch.dtype, float]) -> dict[str, Any]:
    plan = read_recipe(case.recipe, case.changes)
    plan = replace(plan, training=replace(plan.training, patience=0))
    architecture = plan.make_architecture()
    one = seconds_alone(plan, steps, max(1, min(4, case.networks)))
    many = seconds_of_many(plan, case.networks, steps, workers)
    work = step_work(architecture, plan.training.batch_size) * plan.training.steps
    return {
        "population": case.name,
        "parameters": architecture.parameters,
        "steps": plan.training.steps,
        "precision": plan.training.precision,
        "together": plan.training.together or networks_per_group(architecture),
        "per_minute_alone": round(60 / one, 2),
        "per_minute": round(60 / many, 2),
        "per_minute_at_the_floor": round(60 * speeds[plan.training.dtype] / work, 2),
        "per_minute_at_the_float32_floor": round(60 * speeds[torch.float32] / work, 2),
        "speedup": round(one / many, 2),
    }


def precision_row(name: str, networks: int, steps: int) -> dict[str, Any]:
    """Validation accuracy of the same networks by products in float32 and in bfloat16."""
    plan = read_recipe(name)
    data, architecture, tasks = (
        datasets.load(plan.dataset),
        plan.make_architecture(),
        plan.make_tasks()[:networks],
    )
    row: dict[str, Any] = {"population": f"{name}, {steps} steps", "networks": networks}
    for precision in ("float32", "bfloat16"):
        short = replace(plan.training, steps=steps, patience=0, precision=precision)
        state = train_many(architecture, data, tasks, range(networks), short).state
        found = Tensor([m["validation"] for m in measured(architecture, state, data, tasks)])
        row[precision] = {"mean": round(float(found.mean()), 4), "std": round(float(found.std()), 4)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that train many")
    parser.add_argument("--accuracy-steps", type=int, default=844, help="of the comparison of precisions")
    options = parser.parse_args()
    begin = time.perf_counter()
    speeds = {dtype: matrix_speed(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rows: list[dict[str, Any]] = []
    aims: list[dict[str, Any]] = []
    for case in cases():
        wanted = f"at least {case.wanted:g} times as many as one at a time"
        try:
            row = measure(case, options.steps, options.workers, speeds)
        except InputError as error:  # the data set is not on this computer
            reason = str(error).splitlines()[0]
            rows.append({"population": case.name, "per_minute": None, "reason": reason})
            aims.append({"name": case.name, "aim": wanted, "value": None, "reason": reason, "met": False})
            continue
        print(row, flush=True)
        rows.append(row)
        aims.append(aim(case.name, wanted, [row["speedup"]], row["speedup"] >= case.wanted))
    try:
        row = precision_row("fashion_mnist", 16, options.accuracy_steps)
        apart = abs(row["float32"]["mean"] - row["bfloat16"]["mean"])
        print(row, flush=True)
        rows.append(row)
        aims.append(aim("Fashion-MNIST MLP: bfloat16 against float32, points of 1 apart", "at most 0.005", [apart], apart <= 0.005))  # fmt: skip
    except InputError as error:
        rows.append({"population": "fashion_mnist", "reason": str(error).splitlines()[0]})
    path = write_result(
        "populations",
        size=f"{options.steps} and {4 * options.steps} steps timed, {options.workers} processes",
        seeds=[0],
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=aims,
    )
    print(path)


if __name__ == "__main__":
    main()
