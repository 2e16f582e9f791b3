"""How well and how fast canon aligns: planted and trained pairs, torchvision's networks, zoos."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import fashion, planted
from benchmarks.common import aim, forget_peak, interval, memory, write_result
from canon.actions import permutation as perm
from canon.matching.linear_assignment import solve
from canon.matching.weight_matching import match_weights
from canon.merging.activation_repair import reestimate_batch_norm
from canon.merging.interpolation import curve
from canon.merging.weight_norms import restore_norms
from canon.spec import Axis, Factor, PermutationSpec
from canon.tracing.symmetry_groups import trace

Row = dict[str, Any]
SPEED_AIMS = {"resnet18": 2.0, "resnet50": 4.0, "vit_b_16": 8.0}


class ResidualMLP(nn.Module):
    def __init__(self, width: int = 64, hidden: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.inputs, self.out = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x.relu())


class SmallCNN(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
        )


def train(build: Callable[[], nn.Module], seed: int, x: Tensor, y: Tensor, epochs: int = 12) -> nn.Module:
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def barriers(name: str, build: Callable[[], nn.Module], pairs: int) -> Row:
    """Loss barriers on held-out digits of independently trained pairs, by start."""
    digits = load_digits()
    x, y = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    train_x, train_y, test = x[:1200], y[:1200], (x[1200:], y[1200:])
    found: dict[str, list[float]] = {"unaligned": [], "identity": [], "auto": [], "frank_wolfe": []}
    for pair in range(pairs):
        a, b = (train(build, 2 * pair + n, train_x, train_y) for n in (0, 1))
        spec = trace(a, x[:2])
        for start, values in found.items():
            state = b.state_dict()
            if start != "unaligned":
                match = match_weights(spec, a.state_dict(), state, start=start)
                state = perm.apply(spec, match.permutation, state)

            def repair(merged: dict[str, Tensor], weight: float, model: nn.Module = a) -> dict[str, Tensor]:
                inputs = [train_x]
                return reestimate_batch_norm(model, merged, lambda: inputs) if 0 < weight < 1 else merged

            line = curve(a, a.state_dict(), state, lambda: [test], repair=repair)
            values.append(line.loss_barrier)
    means = {start: sum(values) / len(values) for start, values in found.items()}
    return {"table": "barriers", "network": name, "pairs": pairs, "mean": means, "each": found}


def plain_coordinate_descent(spec: PermutationSpec, a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """Git Re-Basin's algorithm as its paper has it: every product anew for every group and sweep."""
    now, generator = perm.identity(spec), torch.Generator().manual_seed(0)
    names, progress = list(spec.groups), True
    while progress:
        progress = False
        for number in torch.randperm(len(names), generator=generator).tolist():
            group, size = names[number], spec.groups[names[number]].size
            score = torch.zeros(size, size, dtype=torch.float64)
            for tensor, axis in spec.uses(group):
                if tensor in spec.statistics:
                    continue
                moved = b[tensor]
                for n, other in enumerate(spec.axes[tensor]):
                    if n != axis and other.groups:
                        moved = perm.take(moved, perm.axis_index(spec, other, now), n)
                rows = [t.movedim(axis, 0).reshape(size, -1).double() for t in (a[tensor], moved)]
                score += rows[0] @ rows[1].T
            new, units = solve(score), torch.arange(size)
            if score[units, new].sum() > score[units, now[group]].sum() + 1e-9:
                now[group], progress = new, True
    moved = perm.apply(spec, now, b)
    used = [n for n, t in a.items() if t.is_floating_point() and n not in spec.statistics]
    return torch.stack([(a[n].double() * moved[n].double()).sum() for n in used]).sum()


def without_heads(spec: PermutationSpec) -> PermutationSpec:
    """The spec with nested groups held where they are: Git Re-Basin knows plain groups only."""
    outer = {group.within for group in spec.groups.values()}
    groups = {n: g for n, g in spec.groups.items() if g.within is None and n not in outer}

    def held(factor: Factor) -> Factor:
        return factor if factor.group in groups else Factor(factor.size)

    axes = {
        name: tuple(Axis(tuple(tuple(held(f) for f in seg) for seg in axis.segments)) for axis in shape)
        for name, shape in spec.axes.items()
    }
    return PermutationSpec(groups, axes, spec.statistics)


def pair(name: str) -> list[nn.Module]:
    torch.manual_seed(0)
    return [getattr(torchvision.models, name)().eval() for _ in range(2)]


def timed(name: str, spec: PermutationSpec, threads: int) -> Row:
    """Seconds and added memory, in a process of its own that holds the two checkpoints already."""
    torch.set_num_threads(threads)
    states = [model.state_dict() for model in pair(name)]
    forget_peak()
    before = memory("VmRSS")
    match = match_weights(spec, *states)
    added = memory("VmHWM") - before
    checkpoint = sum(t.numel() * t.element_size() for t in states[0].values())
    return {
        **{"table": "speed", "network": name, "seconds": match.seconds, "objective": float(match.objective)},
        **{"sweeps": match.sweeps, "converged": match.converged, "added_memory_bytes": added},
        **{"memory_before_bytes": before, "checkpoint_bytes": checkpoint},
    }


def speed(name: str) -> Row:
    a, b = pair(name)
    size = 224 if "vit" in name else 64
    spec = trace(a, torch.randn(2, 3, size, size), verify=False)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        row = pool.submit(timed, name, spec, torch.get_num_threads()).result()
    row["load_of_the_machine"] = os.getloadavg()[0]
    states, started = [m.state_dict() for m in (a, b)], time.perf_counter()
    plain = float(plain_coordinate_descent(without_heads(spec), *states))
    return {**row, "plain_objective": plain, "plain_seconds": time.perf_counter() - started}


def thousand(count: int) -> Row:
    spec, generator = fashion.spec(), torch.Generator().manual_seed(0)
    networks = {
        n: torch.randn(count, *(axis.size for axis in axes), generator=generator)
        for n, axes in spec.axes.items()
    }
    started = time.perf_counter()
    match_weights(spec, {n: t[0] for n, t in networks.items()}, networks)
    seconds, load = time.perf_counter() - started, os.getloadavg()[0]
    return {"table": "many", "networks": count, "seconds": seconds, "load_of_the_machine": load}


def means(folder: Path, kind: str, seed: int) -> list[Row]:
    """What the mean of a zoo is worth after each way to align it, on test images."""
    spec, zoo, data = fashion.spec(), fashion.zoo(folder, kind, seed), fashion.images("test", kind)
    average = float(fashion.accuracy(zoo, data).mean())
    rows: list[Row] = [{"way": "the zoo's own mean accuracy", "accuracy": average, "ratio": 1.0}]
    merged, shares = {}, [1 / fashion.NETWORKS] * fashion.NETWORKS
    for way, networks in fashion.ways(spec, zoo).items():
        merged[way] = {n: t.mean(0) for n, t in networks.items()}
        if way.startswith("default"):
            each = [{n: t[row] for n, t in networks.items()} for row in range(fashion.NETWORKS)]
            merged[f"{way}, lengths restored"] = restore_norms(merged[way], each, shares)
    for way, state in merged.items():
        reached = float(fashion.accuracy(state, data))
        rows.append({"way": way, "accuracy": reached, "ratio": reached / average})
    return [{"table": "mean of the zoo", "kind": kind, "seed": seed, **row} for row in rows]


def unmeasured(name: str, wanted: str) -> dict[str, Any]:
    reason = "not asked for in this run"
    return {"name": name, "aim": wanted, "value": None, "interval": None, "met": False, "reason": reason}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(SPEED_AIMS), choices=list(SPEED_AIMS))
    parser.add_argument("--cases", type=int, default=100, help="planted stacks; of the large ones a fifth")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--zoos", type=Path, help="folder of Fashion-MNIST networks; made where missing")
    asked = parser.parse_args()
    started, rows, aims = time.perf_counter(), [], []

    def tell(row: Row) -> Row:
        rows.append(row)
        print({k: v for k, v in row.items() if k != "each"}, flush=True)
        return row

    few = -(-asked.cases // 5)
    for name, spec, cases, noise in (
        ("planted stack 30/50", planted.residual_stack(30, 50), asked.cases, 0.0),
        ("planted stack 128/256", planted.residual_stack(128, 256), few, 0.0),
        ("planted transformer 128 x 6, noise as large", planted.transformer_stack(), min(few, 3), 1.0),
    ):
        share = tell(planted.recovered(name, spec, cases, noise))["recovered"]["auto"] / cases
        aims.append(aim(f"{name}: recovered", f"{cases} of {cases}", [share], share == 1))
    for name, build in (("residual MLP", ResidualMLP), ("batch-norm CNN", SmallCNN)):
        row = tell(barriers(name, build, asked.pairs))
        gain = [a - b for a, b in zip(row["each"]["identity"], row["each"]["auto"], strict=True)]
        row["interval_of_gain"] = interval(gain)
        better = row["mean"]["auto"] <= row["mean"]["identity"]
        aims.append(aim(f"{name}: barrier, default", "<= identity start", row["each"]["auto"], better))
    row = tell(thousand(asked.many))
    aims.append(aim(f"{asked.many} MLPs to one reference, s", "<= 5", [row["seconds"]], row["seconds"] <= 5))
    for kind in fashion.KINDS:
        name = f"mean of 100 MLPs / zoo, {kind} initialisation"
        ways = {name: "default", f"{name}, lengths restored": "default, lengths restored"}
        if asked.zoos is None:
            aims.extend(unmeasured(named, ">= 0.93") for named in ways)
            continue
        ratios = {row["way"]: tell(row)["ratio"] for row in means(asked.zoos, kind, fashion.REPORTED)}
        for named, way in ways.items():
            aims.append(aim(named, ">= 0.93", [ratios[way]], ratios[way] >= 0.93))
    for name, limit in SPEED_AIMS.items():
        if name not in asked.networks:
            aims.append(unmeasured(f"{name} pair, s", f"<= {limit}"))
            continue
        row = tell(speed(name))
        aims.append(aim(f"{name} pair, s", f"<= {limit}", [row["seconds"]], row["seconds"] <= limit))
        added = row["added_memory_bytes"] / 2**30
        aims.append(aim(f"{name}: memory above two checkpoints, GiB", "<= 1", [added], added <= 1))
        higher = row["objective"] - row["plain_objective"]
        aims.append(aim(f"{name}: objective minus plain", ">= 0", [higher], higher >= 0))
    size = f"{asked.cases} planted stacks, {asked.pairs} trained pairs, {asked.many} random MLPs, 100 Fashion-MNIST MLPs of each kind"
    seconds = time.perf_counter() - started
    print(write_result("alignment", size=size, seeds=[0], seconds=seconds, rows=rows, aims=aims))


if __name__ == "__main__":
    main()
