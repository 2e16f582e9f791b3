"""Accuracy by split: generated, trained on the very tasks, chance and every baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from weightflow.evaluation.chance import chances
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Spread
from weightflow.evaluation.novelty import novel_and_good
from weightflow.report.baselines import BaselineResult
from weightflow.report.generated import Generated

SPLITS = {
    "seen": "the zoo has no network of a task that the generator saw",
    "unseen_combinations": "the zoo holds out no combination of classes",
    "unseen_classes": "the zoo holds out combinations of classes, not whole classes",
    "unseen_by_backbone": "the zoo has no classes that a backbone was trained without",
}


def missing(context: EvaluationContext, split: str) -> dict[str, Any]:
    """A split that the zoo does not have: null, and why."""
    reason = "all networks of the zoo have one task" if context.one_task else SPLITS[split]
    return {split: None, f"{split}_reason": reason}


def split_figures(
    context: EvaluationContext, made: Generated, beside: Mapping[str, BaselineResult]
) -> dict[str, Any]:
    names = context.data.class_names
    ours, trained = made.predictions.by_class(names), made.trained.by_class(names)
    accuracy = made.predictions.accuracy.double()
    by_chance = torch.tensor(chances(made.tasks), dtype=torch.float64)
    return {
        "tasks": len({frozenset(task.classes) for task in made.tasks}),
        "networks": len(made.tasks),
        "accuracy": Spread.of(made.predictions.accuracy).to_dict(),
        "trained": Spread.of(made.trained.accuracy).to_dict(),
        "chance": round(float(by_chance.mean()), 6),
        "above_chance": Spread.of(accuracy - by_chance, -1.0).to_dict(),
        "baselines": {name: _figures(baseline, made) for name, baseline in beside.items()},
        "classes": {name: {"generated": ours[name], "trained": trained[name]} for name in ours},
        "calibration_error": {
            "generated": Spread.of(made.predictions.calibration).to_dict(),
            "trained": Spread.of(made.trained.calibration).to_dict(),
        },
    }


def _figures(baseline: BaselineResult, made: Generated) -> dict[str, Any]:
    if baseline.accuracy is None:
        return {"mean": None, "std": None, "interval": None, "reason": baseline.reason}
    found: dict[str, Any] = Spread.of(baseline.accuracy).to_dict()
    if baseline.ratios is not None:
        found["nearest_distance_ratio"] = round(float(baseline.ratios.mean()), 6)
        found["novel_and_good"] = novel_and_good(baseline.ratios, baseline.accuracy, made.bound)
    return found
