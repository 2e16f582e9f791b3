"""Where the time goes: shares of operators in the work whose speed aims are missed.

Every case runs once to warm up and is then profiled by torch.profiler in one thread, in a process of its own, on random data:
what operators cost does not depend on it. The profiler measures elapsed time, so the machine has to be quiet. `outside operators`
is time in which no operator of torch runs: assignments (scipy), Python, and what the profiler itself takes.

    python -m benchmarks.profiles [--case NAME ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import speed
from benchmarks.common import write_result
from canon.matching.weight_matching import match_weights
from canon.tracing.symmetry_groups import trace
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.data.types import from_arrays
from weightflow.flow.sampling_config import SampleConfig
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt
from weightflow.zoo.recipe import read_recipe

SHOWN = 6  # operators of a case; the others are summed up
Work = Callable[[], Any]


def sampling(network: str, generator: str, method: str, steps: int) -> Work:
    """Sample the networks of a case of `benchmarks.speed`."""
    case = next(c for c in speed.cases() if (c.network, c.generator) == (network, generator))
    with tempfile.TemporaryDirectory() as folder:
        flow = speed.untrained(case, Path(folder))
    words = flow.prompts([Prompt(tuple(f"class {i}" for i in range(flow.architecture.classes)))] * case.count)
    config = SampleConfig(method=method, steps=steps, jump=True)
    return lambda: flow.tokens(words, flow.noise(range(case.count), words.present), config)


def training(recipe: str, shape: tuple[int, ...], networks: int, steps: int) -> Work:
    """Train networks of ten of a hundred classes by a recipe, on random examples."""
    plan = read_recipe(recipe)
    names = tuple(f"class {i}" for i in range(100))
    inputs = np.random.default_rng(0).normal(size=(3000, *shape)).astype("float32")
    data = from_arrays("random", names, inputs, np.arange(3000) % 100, divisor=1.0, licence="")
    architecture = Architecture(plan.architecture.name, plan.architecture.arguments, shape, 10)
    tasks = [Task("random", names[i % 90 : i % 90 + 10]) for i in range(networks)]
    short = replace(plan.training, steps=steps, patience=0)
    return lambda: train_many(architecture, data, tasks, range(networks), short)


def alignment(name: str) -> Work:
    """Match two random networks of torchvision, which takes what matching trained ones takes in a sweep."""
    import torchvision

    a, b = (getattr(torchvision.models, name)(weights=None).eval() for _ in "ab")
    spec = trace(a, torch.randn(1, 3, 224, 224))
    state_a, state_b = ({k: v.detach() for k, v in net.state_dict().items()} for net in (a, b))
    return lambda: match_weights(spec, state_a, state_b)


CASES: dict[str, Callable[[], Work]] = {
    "sampling 100 digits MLPs, transformer, 4 evaluations": lambda: sampling(
        "MLP, 2 k", "transformer, flow", "euler", 4
    ),
    "sampling 100 Fashion-MNIST MLPs, narrow, 1 evaluation": lambda: sampling(
        "Fashion-MNIST MLP, 118 k", "narrow, flow", "ddim", 1
    ),
    "training 64 linear heads, 200 steps": lambda: training("tina_head", (512,), 64, 200),
    "training 2 small CNNs, 20 steps": lambda: training("tina_cnn", (3, 32, 32), 2, 20),
    "aligning two resnet50": lambda: alignment("resnet50"),
}


def measure(name: str) -> dict[str, Any]:
    """Seconds of a case, and the shares of its operators."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    work = CASES[name]()
    work()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CPU]) as found:
        begin = time.perf_counter()
        work()
        profiled = time.perf_counter() - begin
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    largest = sorted(own, key=lambda key: -own[key])[:SHOWN]
    shares = {key.removeprefix("aten::"): round(own[key] / profiled, 3) for key in largest}
    shares["other operators"] = round((sum(own.values()) - sum(own[key] for key in largest)) / profiled, 3)
    shares["outside operators"] = round(max(0.0, profiled - sum(own.values())) / profiled, 3)
    return {"work": name, "seconds": round(seconds, 3), "profiled": round(profiled, 3), "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    begin = time.perf_counter()
    rows = []
    for name in options.case:
        command = [sys.executable, "-m", "benchmarks.profiles", "--one", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_result("profiles", size="small", seeds=[0], seconds=time.perf_counter() - begin, rows=rows, aims=[])


if __name__ == "__main__":
    main()
