"""The report of a run: what it generates, beside everything that it must beat, and how fast.

`report.json` holds the figures, `report.html` is one self-contained page. A figure that could not be
measured is null, with the reason in a key beside it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from weightflow import checkpoint as runs
from weightflow.baselines import BASELINES, Known
from weightflow.decode import decode
from weightflow.evaluate import Judged, Spread, chance, judge
from weightflow.novelty import Distances, compare_behaviour, nearest_distances, root_mean_square
from weightflow.sample import Flow, SampleConfig
from weightflow.text import Prompt
from weightflow.zoo.logits import State
from weightflow.zoo.store import Zoo
from weightflow.zoo.tasks import Task

Say = Callable[[str], None]


@dataclass(frozen=True)
class Generated:
    """Networks generated for the tasks of one split of the zoo, judged beside the trained ones."""

    tasks: list[Task]
    z: Tensor
    used: Tensor
    state: State
    judged: Judged
    trained: Judged
    distances: Distances


def make_report(
    folder: Path,
    seed: int = 0,
    limit: int = 200,
    config: SampleConfig = SampleConfig(),
    say: Say = lambda t: None,
) -> dict[str, Any]:
    """Generate networks for up to `limit` tasks of each split and measure everything on test images.

    Raises `InputError` where the run's zoo has moved or changed.
    """
    known = open_known(folder)
    splits, generated = {}, {}
    for split in ("seen", "unseen_combinations"):
        say(f"{split.replace('_', ' ')}: generating and judging")
        generated[split] = _generate(known, split, seed, limit, config)
        splits[split] = _split_figures(known, generated[split], seed)
    say("novelty, speed, solvers")
    accuracy = judge(known.zoo.architecture, known.state, known.tasks).accuracy
    return {
        "zoo": {
            "count": len(known.zoo),
            "architecture": known.zoo.architecture.to_dict(),
            "accuracy": {**Spread.of(accuracy).to_dict(), "max": round(float(accuracy.max()), 6)},
        },
        "splits": {
            **splits,
            "unseen_classes": None,
            "unseen_classes_reason": "the zoo holds out combinations of classes, not whole classes",
        },
        "novelty": _novelty(known, generated),
        "speed": _speed(known, config, seed),
        "solvers": _solvers(known, generated["unseen_combinations"], seed),
        "sample": {"method": config.method, "steps": config.steps, "guidance": config.guidance},
        "scatter": _scatter(known, generated["unseen_combinations"], seed),
        "training": runs.read_metrics(folder),
        "environment": environment(seed),
    }


def open_known(folder: Path) -> Known:
    """The run and its zoo; `InputError` where the zoo is gone or is not the one it was trained on."""
    flow = Flow(folder)
    reference = flow.header.zoo
    if not Path(reference.path).is_dir():
        raise InputError(f"the zoo of {folder} is no longer at {reference.path}; put it back or train again")
    zoo = Zoo(reference.path)
    if zoo.identity != reference.identity:
        raise InputError(
            f"the zoo at {reference.path} has changed since {folder} was trained on it "
            f"({zoo.identity[:12]}, then {reference.identity[:12]}); train again, or restore it"
        )
    return Known(flow, zoo)


def _generate(known: Known, split: str, seed: int, limit: int, config: SampleConfig) -> Generated:
    zoo, flow = known.zoo, known.flow
    rows = zoo.rows(split)[:limit]
    if not rows:
        raise InputError(f"{zoo.path} has no network of the split '{split}' to compare with")
    tasks = [zoo.records[i].task for i in rows]
    words = flow.prompts([Prompt(task.classes) for task in tasks])
    z = flow.tokens(words, flow.noise([seed + i for i in range(len(tasks))], words.present), config)
    state = decode(flow.coordinates, z, words)
    return Generated(
        tasks=tasks,
        z=z,
        used=flow.coordinates.used(words.present),
        state=state,
        judged=judge(zoo.architecture, state, tasks),
        trained=judge(zoo.architecture, zoo.load(rows), tasks),
        distances=nearest_distances(known, state, tasks),
    )


def _split_figures(known: Known, made: Generated, seed: int) -> dict[str, Any]:
    architecture = known.zoo.architecture
    baselines = {
        name: Spread.of(judge(architecture, make(known, made.tasks, seed), made.tasks).accuracy).to_dict()
        for name, make in BASELINES.items()
    }
    return {
        "tasks": len({frozenset(task.classes) for task in made.tasks}),
        "networks": len(made.tasks),
        "accuracy": Spread.of(made.judged.accuracy).to_dict(),
        "trained": Spread.of(made.trained.accuracy).to_dict(),
        "chance": round(chance(made.tasks), 6),
        "baselines": baselines,
    }


def _novelty(known: Known, generated: dict[str, Generated]) -> dict[str, Any]:
    unseen, seen = generated["unseen_combinations"], generated["seen"]
    # wrong predictions are compared within a combination of classes, and only seen ones have networks
    # that the generator learned from
    zoo = judge(known.zoo.architecture, known.state, known.tasks)
    ours = compare_behaviour(seen.judged, seen.tasks, zoo, known.tasks)
    theirs = compare_behaviour(zoo, known.tasks, zoo, known.tasks)
    return {
        "nearest_distance_ratio": round(float(unseen.distances.ratios.mean()), 6),
        "nearest_distance_ratio_seen": round(float(seen.distances.ratios.mean()), 6),
        "max_wrong_iou": {"generated": ours.wrong_iou, "zoo": theirs.wrong_iou},
        "rms_ratio": round(_rms_ratio(known, unseen.z, unseen.used), 6),
        "functional_disagreement": {"generated": ours.disagreement, "zoo": theirs.disagreement},
    }


def _rms_ratio(known: Known, z: Tensor, used: Tensor) -> float:
    words = known.flow.prompts([Prompt(task.classes) for task in known.tasks])
    real = known.flow.coordinates.encode(known.state, words.present)
    return root_mean_square(z, used) / root_mean_square(real, known.flow.coordinates.used(words.present))


def _speed(known: Known, config: SampleConfig, seed: int, networks: int = 100) -> dict[str, Any]:
    flow = known.flow
    prompts = [Prompt(known.tasks[i % len(known.tasks)].classes) for i in range(networks)]
    words = flow.prompts(prompts)
    flow.tokens(words, flow.noise(range(networks), words.present), config)  # warm-up
    begin = time.perf_counter()
    z = flow.tokens(words, flow.noise(range(networks), words.present), config)
    middle = time.perf_counter()
    decode(flow.coordinates, z, words)
    end = time.perf_counter()
    return {
        "networks": networks,
        "sample_seconds": round(middle - begin, 6),
        "networks_per_second": round(networks / (end - begin), 3),
        "evaluations_per_network": config.evaluations,
        "decode_seconds": round(end - middle, 6),
    }


def _solvers(known: Known, made: Generated, seed: int) -> list[dict[str, Any]]:
    """Accuracy and root mean square against the number of evaluations, on unseen combinations."""
    flow, rows = known.flow, []
    words = flow.prompts([Prompt(task.classes) for task in made.tasks])
    for method, steps in (
        ("euler", 1),
        ("euler", 2),
        ("euler", 4),
        ("euler", 8),
        ("euler", 16),
        ("heun", 4),
        ("rk4", 3),
    ):
        config = SampleConfig(method=method, steps=steps)
        z = flow.tokens(words, flow.noise([seed + i for i in range(len(words))], words.present), config)
        state = decode(flow.coordinates, z, words)
        rows.append(
            {
                "method": method,
                "steps": steps,
                "evaluations": config.evaluations,
                **Spread.of(judge(known.zoo.architecture, state, made.tasks).accuracy).to_dict(),
                "rms_ratio": round(_rms_ratio(known, z, made.used), 6),
                "nearest_distance_ratio": round(
                    float(nearest_distances(known, state, made.tasks).ratios.mean()), 6
                ),
            }
        )
    return rows


def _scatter(known: Known, made: Generated, seed: int) -> dict[str, list[dict[str, float]]]:
    """Nearest-distance ratio and accuracy of single networks: generated, trained, and each baseline."""
    rows = known.zoo.rows("unseen_combinations")[: len(made.tasks)]
    populations = {
        "generated": (made.distances, made.judged),
        "trained": (nearest_distances(known, known.zoo.load(rows), made.tasks), made.trained),
    }
    for name, make in BASELINES.items():
        state = make(known, made.tasks, seed)
        populations[name] = (
            nearest_distances(known, state, made.tasks),
            judge(known.zoo.architecture, state, made.tasks),
        )
    return {
        name: [
            {"ratio": round(r, 4), "accuracy": round(a, 4)}
            for r, a in zip(distances.ratios.tolist(), judged.accuracy.tolist(), strict=True)
        ]
        for name, (distances, judged) in populations.items()
    }


def environment(seed: int) -> dict[str, Any]:
    """Where and with what the figures were measured."""
    commit = _commit()
    return {
        "torch": torch.__version__,
        "weightflow": metadata.version("weightflow"),
        "python": platform.python_version(),
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": commit,
        **({} if commit else {"commit_reason": "the package is not running from a git checkout"}),
        "seed": seed,
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def table(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The one table: a row a method, a column a split, accuracies in per cent with their spread."""
    splits = {name: s for name, s in report["splits"].items() if isinstance(s, dict)}
    first = next(iter(splits.values()))
    rows: list[tuple[str, ...]] = [("", *(name.replace("_", " ") for name in splits))]

    def row(label: str, cells: Sequence[dict[str, float]]) -> None:
        rows.append((label, *(f"{100 * c['mean']:.1f} ± {100 * c['std']:.1f}" for c in cells)))

    row("generated", [s["accuracy"] for s in splits.values()])
    row("trained on the same task", [s["trained"] for s in splits.values()])
    for name in first["baselines"]:
        row(name.replace("_", " "), [s["baselines"][name] for s in splits.values()])
    rows.append(("chance", *(f"{100 * s['chance']:.1f}" for s in splits.values())))
    return rows


def verdict(report: dict[str, Any]) -> str:
    """One sentence on what the generator does, from its novelty figures."""
    novelty, unseen = report["novelty"], report["splits"]["unseen_combinations"]
    share = unseen["accuracy"]["mean"] / unseen["trained"]["mean"]
    ratio = novelty["nearest_distance_ratio"]
    kind = "generates new networks" if ratio >= 0.75 else "interpolates" if ratio >= 0.3 else "copies"
    return (
        f"On combinations of classes it never saw it reaches {100 * share:.1f} % of the accuracy of networks "
        f"trained on them, and {kind}: they lie {ratio:.2f} times as far from the nearest training network "
        "as training networks lie from each other."
    )
