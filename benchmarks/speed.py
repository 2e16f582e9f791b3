"""How fast networks are made: per second, evaluations each, peak memory; beside the floor.

Generators are freshly initialised: what they make is worthless, and costs as much as what a trained one
makes. The floor is the larger of floating-point work over the speed of a matrix product and bytes over
the bandwidth of a copy, both measured here; the noise, drawn number after number, is not in it, and stands beside it.
Every case runs in a process of its own.

python -m benchmarks.speed [--size small|paper] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import aim, write_result
from weightflow import datasets
from weightflow import representation as kinds
from weightflow.datasets import DataInfo
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.decode import decode
from weightflow.generator.generator import Flow
from weightflow.models import make_model
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import make_layout
from weightflow.representation.principal_components import Components
from weightflow.representation.standardized_tokens import Tokens
from weightflow.text import Prompt, PromptBatch, load_encoder
from weightflow.training import run_store as runs
from weightflow.training.presets import read_preset

IMAGE = (3, 32, 32)
NETWORKS = {
    "MLP, 2 k": Architecture("mlp", {"inputs": 64, "hidden": [32]}, (64,), 6),
    "Fashion-MNIST MLP, 118 k": Architecture("mlp", {"inputs": 784, "hidden": [128, 128]}, (1, 28, 28), 10),
    "ViT, 2.7 M": Architecture(
        "vit", {"size": 32, "patch": 4, "width": 192, "depth": 6, "heads": 3}, IMAGE, 10
    ),
    "ResNet-18, 11 M": Architecture("resnet18", {}, IMAGE, 10),
}


@dataclass(frozen=True)
class Case:
    """A network, a generator for it (changes to a preset), and how many networks are made at once."""

    network: str
    generator: str
    preset: str
    changes: dict[str, Any]
    count: int
    samplers: tuple[tuple[str, int], ...] = (("euler", 1), ("euler", 4), ("euler", 8))

    @property
    def name(self) -> str:
        return f"{self.network}: {self.generator}"


DIRECT = (("ddim", 1), ("ddim", 2), ("ddim", 4), ("ddim", 8), ("euler", 4))
PUBLISHED = (("rk4", 99),)
WORDLESS = {"encoder": "none", "drop_prompt": 0.0}
FLAT = {"coordinates": {"kind": "tokens", "scaled": False}}
LARGE = {**WORDLESS, "layout": "blocks", "chunk": 16384, "model": {"depth": 4}}


def cases() -> list[Case]:
    small, fashion, vit, resnet = NETWORKS
    diffusion = {"objective": {"path": "diffusion"}}
    return [
        Case(small, "transformer, flow", "weightflow", {}, 100, (("euler", 1), ("euler", 4), ("heun", 4), ("rk4", 3))),
        Case(small, "transformer, diffusion", "weightflow", diffusion, 100),
        Case(fashion, "narrow, flow", "narrow", {}, 100, DIRECT),
        Case(fashion, "narrow, diffusion", "narrow", diffusion, 100, DIRECT),
        Case(fashion, "transformer, flow", "weightflow", WORDLESS, 20, (("euler", 1), ("euler", 4))),
        Case(fashion, "deepweightflow", "deepweightflow", {}, 100, PUBLISHED),
        Case(fashion, "deepweightflow, flat", "deepweightflow", FLAT, 10, PUBLISHED),
        Case(vit, "components, flow", "deepweightflow", {"coordinates": {"count": 49}}, 20, (("euler", 8), *PUBLISHED)),
        Case(vit, "larger tokens, flow", "weightflow", LARGE, 4, (("euler", 1), ("euler", 4))),
        Case(resnet, "components, flow", "deepweightflow", {"coordinates": {"count": 20}}, 8, (("euler", 8), *PUBLISHED)),
        Case(resnet, "larger tokens, flow", "weightflow", LARGE, 2, (("euler", 1), ("euler", 4))),
    ]  # fmt: skip


def untrained(case: Case, folder: Path) -> Flow:
    """A run whose model is freshly initialised and whose coordinates are random."""
    architecture, config = NETWORKS[case.network], read_preset(case.preset, case.changes)
    layout = make_layout(architecture, config.layout, config.chunk)
    generator = torch.Generator().manual_seed(0)
    coordinates: kinds.Coordinates
    if config.coordinates.kind == "components":
        flat = make_layout(architecture, "flat")
        directions = torch.randn(config.coordinates.count, flat.width, generator=generator)
        scale = torch.ones(len(directions))
        coordinates = Components(architecture, flat, torch.zeros(flat.width), directions, scale)
    else:
        shape = (layout.tokens, layout.width)
        coordinates = Tokens(architecture, layout, torch.zeros(shape), torch.ones(shape))
    encoder = load_encoder(config.encoder)
    zoo = runs.ZooReference("none: nothing was learned", "", "digits")
    facts = DataInfo.of(datasets.load("digits"))
    runs.write_header(folder, runs.RunHeader(config, zoo, architecture, layout, encoder.identity, facts))
    model = make_model(config.model, coordinates.layout, encoder.width, architecture.classes)
    runs.write_checkpoint(folder, {}, model.state_dict(), coordinates, {}, 0)
    return Flow(folder)


def matrix_speed(size: int = 1024, repeats: int = 8) -> float:
    """Floating-point operations per second of a square product, the best of several."""
    a, best = torch.randn(size, size), float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def bandwidth(entries: int = 2**25, repeats: int = 5) -> float:
    """Bytes per second of a copy, read and written, the best of several."""
    a, b, best = torch.zeros(entries), torch.empty(entries), float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        b.copy_(a)
        best = min(best, time.perf_counter() - begin)
    return 8 * entries / best


def measure(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Rows of one case, in this process."""
    before = _peak()
    speed, width = matrix_speed(), bandwidth()
    with tempfile.TemporaryDirectory() as folder:
        flow = untrained(case, Path(folder))
    classes = tuple(f"class {i}" for i in range(flow.architecture.classes))
    words = flow.prompts([Prompt(classes)] * case.count)
    x = flow.noise(range(case.count), words.present)
    rows = []
    for method, steps in case.samplers:
        config = SampleConfig(method=method, steps=steps, jump=method != "rk4")
        sampling, decoding, drawing = [], [], []
        for _ in range(repeats):
            begin = time.perf_counter()
            noise = flow.noise(range(case.count), words.present)
            drawing.append(time.perf_counter() - begin)
            z = flow.tokens(words, noise, config)
            middle = time.perf_counter()
            decode(flow.coordinates, z, words)
            sampling.append(middle - begin)
            decoding.append(time.perf_counter() - middle)
        evaluations = config.evaluations or 0
        work, traffic = _floor(flow, words, x, evaluations)
        floor = max(work / speed, traffic / width)
        whole = min(sampling) + min(decoding)
        rows.append(
            {
                "network": case.network,
                "parameters": flow.architecture.parameters,
                "generator": case.generator,
                "path": flow.header.config.objective.path,
                "generator_parameters": sum(p.numel() for p in flow.model.parameters()),
                "method": method,
                "steps": steps,
                "evaluations": evaluations,
                "networks": case.count,
                "noise_seconds": round(min(drawing), 6),
                "sample_seconds": round(min(sampling), 6),
                "decode_seconds": round(min(decoding), 6),
                "networks_per_second": round(case.count / whole, 3),
                "floor_networks_per_second": round(case.count / floor, 3),
                "bound_by": "arithmetic" if work / speed > traffic / width else "memory",
                "peak_mib": round(_peak() - before),
            }
        )
    return rows


def _floor(flow: Flow, words: PromptBatch, x: torch.Tensor, evaluations: int) -> tuple[float, float]:
    """Floating-point operations and bytes that making the whole batch takes at least."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flow.model(x, x.new_zeros(len(x)), words.vectors, words.present)
    weights = 4 * sum(p.numel() for p in flow.model.parameters())
    # each evaluation reads the weights once, reads and writes the batch; decoding writes the networks
    entries = sum(tensor.numel() for tensor in flow.coordinates.tensors().values())
    made = 4 * len(x) * flow.architecture.parameters
    traffic = evaluations * (weights + 8 * x.numel()) + 4 * entries + made
    work = evaluations * counter.get_total_flops()
    if isinstance(flow.coordinates, Components):
        work += 2 * len(x) * flow.coordinates.directions.numel()
    return work, traffic


def _peak() -> float:
    """Peak memory of this process so far, MiB (kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


FASHION, VIT, RESNET = list(NETWORKS)[1:]
# share of the floor: network, generator, method, steps, at least
SHARES = (
    ("MLP, 2 k", "transformer, flow", "euler", 4, 0.8),
    (FASHION, "narrow, flow", "ddim", 1, 0.5),
    (FASHION, "narrow, flow", "ddim", 4, 0.5),
)
# networks a second, likewise
RATES = (
    (VIT, "larger tokens, flow", "euler", 4, 20.0),
    (RESNET, "larger tokens, flow", "euler", 4, 10.0),
    (RESNET, "components, flow", "euler", 8, 75.0),
)


def aims(rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """`rows`: a list a seed."""

    def each(network: str, generator: str, method: str, steps: int, of: str) -> list[float]:
        wanted = (network, generator, method, steps)
        found = [
            next(r for r in same if (r["network"], r["generator"], r["method"], r["steps"]) == wanted)
            for same in rows
        ]
        if of == "share":
            return [r["networks_per_second"] / r["floor_networks_per_second"] for r in found]
        return [float(r[of]) for r in found]

    narrow = (FASHION, "narrow, flow", "ddim", 4)
    seconds = [
        a + b for a, b in zip(each(*narrow, "sample_seconds"), each(*narrow, "decode_seconds"), strict=True)
    ]
    evaluations = each(*narrow, "evaluations")
    times = {
        (steps, form): [
            ours / theirs
            for ours, theirs in zip(
                each(*narrow[:3], steps, "networks_per_second"),
                each(FASHION, form, "rk4", 99, "networks_per_second"),
                strict=True,
            )
        ]
        for form in ("deepweightflow, flat", "deepweightflow")
        for steps in (1, 4)
    }
    name = "100 Fashion-MNIST MLPs sampled and decoded, seconds on two cores"
    told = [
        aim(name, "at most 0.5 (DeepWeightFlow's released setting: 0.83)", seconds, max(seconds) <= 0.5),
        aim("evaluations a network there", "at most 8 (published: 396)", evaluations, max(evaluations) <= 8),
    ]
    for (steps, form), ratios in times.items():
        at = f"the same with {steps} evaluations, times as many a second as `{form}` (RK4 x 99)"
        told.append(aim(at, "at least 10", ratios, min(ratios) >= 10))
    for network, generator, method, steps, least in SHARES:
        shares = each(network, generator, method, steps, "share")
        at = f"{network}, {generator}, {method} x {steps}: share of the floor"
        told.append(aim(at, f"at least {least}", shares, min(shares) >= least))
    for network, generator, method, steps, least in RATES:
        rates = each(network, generator, method, steps, "networks_per_second")
        at = f"{network}, {generator}, {method} x {steps}: networks a second"
        told.append(aim(at, f"at least {least:g}", rates, min(rates) >= least))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many times everything is measured")
    parser.add_argument("--case", type=int, help="measure this one case and print its rows")
    asked = parser.parse_args()
    repeats = {"small": 2, "paper": 5}[asked.size]
    if asked.case is not None:
        print(json.dumps(measure(cases()[asked.case], repeats)))
        return
    begin, found = time.perf_counter(), []
    for seed in range(asked.seeds):
        rows = []
        for number, case in enumerate(cases()):
            command = [sys.executable, "-m", "benchmarks.speed", "--size", asked.size, "--case", str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows += [{**row, "seed": seed} for row in json.loads(done.stdout)]
            print(case.name, [r["networks_per_second"] for r in rows if r["generator"] == case.generator])
        found.append(rows)
    path = write_result(
        "speed",
        size=asked.size,
        seeds=range(asked.seeds),
        seconds=time.perf_counter() - begin,
        rows=[row for rows in found for row in rows],
        aims=aims(found),
    )
    print(path)


if __name__ == "__main__":
    main()
