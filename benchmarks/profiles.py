"""Where the time goes: shares of operators in the work whose speed aims are missed.

Every case runs once to warm up and is then profiled by torch.profiler in one thread, in a process of its own, on random data:
what operators cost does not depend on it. The profiler measures elapsed time, so the machine has to be quiet. The noise of sampling,
which is drawn in threads, the assignments of matching (scipy) and the writing of files are clocked apart; `outside operators` is time in which none of
these runs: Python, and what the profiler itself takes.

    python -m benchmarks.profiles [--case NAME ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import optimize
from torch.profiler import ProfilerActivity, profile

from benchmarks import large, speed
from benchmarks.common import write_result
from canon.io import safetensors
from canon.matching.weight_matching import match_weights
from canon.tracing.symmetry_groups import trace
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.data.types import from_arrays
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.decode import decode
from weightflow.generator.generator import Flow
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

SHOWN = 6  # operators of a case; the others are summed up
Work = Callable[[], Any]


def sampling(network: str, generator: str, method: str, steps: int) -> Work:
    """Sample and decode the networks of a case of `benchmarks.speed`."""
    case = next(c for c in speed.cases() if (c.network, c.generator) == (network, generator))
    with tempfile.TemporaryDirectory() as folder:
        flow = speed.untrained(case, Path(folder))
    words = flow.prompts([Prompt(tuple(f"class {i}" for i in range(flow.architecture.classes)))] * case.count)
    config = SampleConfig(method=method, steps=steps, jump=method != "rk4")
    return lambda: decode(
        flow.coordinates, flow.tokens(words, flow.noise(range(case.count), words.present), config), words
    )


def training_generator(networks: int, steps: int) -> Work:
    """Train a generator on vision transformers by larger tokens; with no step, what comes before the first."""
    temporary = tempfile.TemporaryDirectory()  # removed with what is returned
    folder = Path(temporary.name)
    large.population(folder / "zoo", "paper", networks)
    settings = {**large.TOKENS, "steps": max(steps, 1), "evaluate_every": 10**6, "save_every": 10**6}
    zoo, numbers = Zoo(folder / "zoo"), count()

    def work() -> None:
        run = Path(temporary.name) / f"run{next(numbers)}"
        trainer = start(zoo, read_preset("weightflow", settings), run)
        if steps:
            trainer.run()

    return work


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


CLOCKED = {
    "normal numbers": (Flow, "noise"),
    "assignments": (optimize, "linear_sum_assignment"),
    "writing files": (safetensors, "write"),
}

CASES: dict[str, Callable[[], Work]] = {
    "sampling 100 digits MLPs, transformer, 4 evaluations": lambda: sampling(
        "MLP, 2 k", "transformer, flow", "euler", 4
    ),
    "sampling 100 Fashion-MNIST MLPs, narrow, 1 evaluation": lambda: sampling(
        "Fashion-MNIST MLP, 118 k", "narrow, flow", "ddim", 1
    ),
    "sampling 100 Fashion-MNIST MLPs, narrow, 4 evaluations": lambda: sampling(
        "Fashion-MNIST MLP, 118 k", "narrow, flow", "ddim", 4
    ),
    "sampling 100 Fashion-MNIST MLPs, deepweightflow, 396 evaluations": lambda: sampling(
        "Fashion-MNIST MLP, 118 k", "deepweightflow", "rk4", 99
    ),
    "sampling 4 ViTs, larger tokens, 4 evaluations": lambda: sampling(
        "ViT, 2.7 M", "larger tokens, flow", "euler", 4
    ),
    "sampling 2 ResNet-18, larger tokens, 4 evaluations": lambda: sampling(
        "ResNet-18, 11 M", "larger tokens, flow", "euler", 4
    ),
    "sampling 8 ResNet-18, components, 8 evaluations": lambda: sampling(
        "ResNet-18, 11 M", "components, flow", "euler", 8
    ),
    "beginning to train on 20 ViTs, larger tokens": lambda: training_generator(20, 0),
    "training on 20 ViTs, larger tokens, 3 steps": lambda: training_generator(20, 3),
    "training 64 linear heads, 200 steps": lambda: training("tina_head", (512,), 64, 200),
    "training 2 small CNNs, 20 steps": lambda: training("tina_cnn", (3, 32, 32), 2, 20),
    "aligning two resnet50": lambda: alignment("resnet50"),
    "aligning two vit_b_16": lambda: alignment("vit_b_16"),
}


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time of the functions that are `CLOCKED`."""
    with ExitStack() as patches:
        for name, (owner, attribute) in CLOCKED.items():
            patches.enter_context(
                patch.object(owner, attribute, _timed(getattr(owner, attribute), name, seconds))
            )
        yield


def _timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

    return timed


def measure(name: str) -> dict[str, Any]:
    """Seconds of a case, and the shares of its operators."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    work, apart = CASES[name](), dict[str, float]()
    work()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    with clocked(apart), profile(activities=[ProfilerActivity.CPU]) as found:
        begin = time.perf_counter()
        work()
        profiled = time.perf_counter() - begin
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    largest = sorted(own, key=lambda key: -own[key])[:SHOWN]
    shares = {key.removeprefix("aten::"): round(own[key] / profiled, 3) for key in largest}
    shares["other operators"] = round((sum(own.values()) - sum(own[key] for key in largest)) / profiled, 3)
    shares |= {key: round(value / profiled, 3) for key, value in apart.items()}
    rest = profiled - sum(own.values()) - sum(apart.values())
    shares["outside operators"] = round(max(0.0, rest) / profiled, 3)
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
