"""Two networks for two sets of classes, one for their union: by words, by averaging, by voting, by training.

python -m benchmarks.fusion [--size small|paper] [--seeds 3] [--demo demo]

Takes the generator and the zoo of `weightflow demo`. Seeds draw other pairs, other noise and other trained
networks; the generator is one. Unions are combinations that the generator never saw. The strength is chosen
on validation images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import aim
from benchmarks.runs import DEMO, Demo, main
from weightflow import datasets
from weightflow.applications.fuse import fuse, union_of
from weightflow.applications.fusion_baselines import baseline_accuracies, trained_as_the_zoo
from weightflow.batched.accuracy import measured
from weightflow.evaluation.chance import chance
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.zoo.network_file import Network

PAIRS = {"small": 12, "paper": 50}
STRENGTHS = (0.5, 0.75, 0.9, 1.0)


def pairs_of(demo: Demo, count: int, rng: np.random.Generator) -> dict[str, list[list[Network]]]:
    """`count` disjoint and as many overlapping pairs of trained networks whose union was never seen."""
    records, found = demo.zoo.records, {"disjoint": [], "overlapping": []}
    known = {frozenset(r.classes) for r in records if r.split in ("seen", "validation")}
    most = demo.flow.architecture.classes
    while min(len(own) for own in found.values()) < count:
        rows = rng.choice(len(records), 2, replace=False)
        a, b = (set(records[i].classes) for i in rows)
        kind = "overlapping" if a & b else "disjoint"
        united = frozenset(a | b)
        new = united not in known and len(united) > max(len(a), len(b))
        if new and len(united) <= most and len(found[kind]) < count:
            found[kind].append([demo.network(int(i)) for i in rows])
    return found


def measure(demo: Demo, pairs: list[list[Network]], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Mean test accuracy of every way, and mean validation accuracy by strength."""
    flow, data = demo.flow, datasets.load(demo.zoo.dataset)
    tasks = [union_of(flow, pair) for pair in pairs]
    accuracy: dict[str, list[float]] = {"trained": []}
    validation: dict[str, list[float]] = {}
    trained = trained_as_the_zoo(flow, tasks, [2**30 + 1000 * seed + i for i in range(len(tasks))])
    accuracy["trained"] = evaluate_networks(flow.architecture, trained, tasks).accuracy.tolist()
    for row, (pair, task) in enumerate(zip(pairs, tasks, strict=True)):
        for strength in STRENGTHS:
            made = fuse(flow, pair, strength, seed=1000 * seed + row)
            name = f"fused {strength:g}"
            accuracy.setdefault(name, []).append(
                float(evaluate_networks(flow.architecture, made, [task]).accuracy)
            )
            found = measured(flow.architecture, made, data, [task])[0]
            validation.setdefault(name, []).append(found["validation"])
        for name, value in baseline_accuracies(flow, pair, task, trained=False).items():
            accuracy.setdefault(name, []).append(value)
        accuracy.setdefault("chance", []).append(chance([task]))
    return _means(accuracy), _means(validation)


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(float(np.mean(own)), 6) for name, own in values.items()}


def run_once(demo: Demo, seed: int, size: str) -> list[dict[str, Any]]:
    count = PAIRS[size]
    found = {
        kind: measure(demo, pairs, seed)
        for kind, pairs in pairs_of(demo, count, np.random.default_rng(seed)).items()
    }
    by_strength = {s: np.mean([found[kind][1][f"fused {s:g}"] for kind in found]) for s in STRENGTHS}
    chosen = max(by_strength, key=lambda s: by_strength[s])
    return [
        {
            "seed": seed,
            "pairs": kind,
            "count": count,
            "strength": chosen,
            "fused": own[f"fused {chosen:g}"],
            **own,
        }
        for kind, (own, _) in found.items()
    ]


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seeds = sorted({r["seed"] for r in rows})

    def values(of: Any) -> list[float]:
        return [float(np.mean([of(r) for r in rows if r["seed"] == seed])) for seed in seeds]

    above = values(lambda r: r["fused"] - r["git_rebasin_average"])
    frame = values(lambda r: r["fused"] - r["average_in_frame"])
    share = values(lambda r: r["fused"] / r["trained"])
    voting = values(lambda r: r["fused"] - r["ensemble"])
    return [
        aim("fused less Git Re-Basin averaging, points of 1", "at least 0.10", above, min(above) >= 0.1),
        aim(
            "fused less averaging in the run's frame, points of 1", "at least 0.10", frame, min(frame) >= 0.1
        ),
        aim("fused over trained on the union", "at least 0.95", share, min(share) >= 0.95),
        aim("fused less the ensemble of the two, points of 1", "above 0", voting, min(voting) > 0),
    ]


if __name__ == "__main__":
    main("fusion", __doc__, DEMO, run_once, aims)
