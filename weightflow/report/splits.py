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


def missing(known: EvaluationContext, split: str) -> dict[str, Any]:
    """A split that the zoo does not have: null, and why."""
    reason = "all networks of the zoo have one task" if known.one_task else SPLITS[split]
    return {split: None, f"{split}_reason": reason}


def split_figures(
    known: EvaluationContext, made: Generated, beside: Mapping[str, BaselineResult]
) -> dict[str, Any]:
    names = known.data.class_names
    ours, trained = made.judged.by_class(names), made.trained.by_class(names)
    accuracy = made.judged.accuracy.double()
    by_chance = torch.tensor(chances(made.tasks), dtype=torch.float64)
    return {
        "tasks": len({frozenset(task.classes) for task in made.tasks}),
        "networks": len(made.tasks),
        "accuracy": Spread.of(made.judged.accuracy).to_dict(),
        "trained": Spread.of(made.trained.accuracy).to_dict(),
        "chance": round(float(by_chance.mean()), 6),
        "above_chance": Spread.of(accuracy - by_chance, -1.0).to_dict(),
        "baselines": {name: _figures(opponent, made) for name, opponent in beside.items()},
        "classes": {name: {"generated": ours[name], "trained": trained[name]} for name in ours},
        "calibration_error": {
            "generated": Spread.of(made.judged.calibration).to_dict(),
            "trained": Spread.of(made.trained.calibration).to_dict(),
        },
    }


def _figures(opponent: BaselineResult, made: Generated) -> dict[str, Any]:
    if opponent.accuracy is None:
        return {"mean": None, "std": None, "interval": None, "reason": opponent.reason}
    found: dict[str, Any] = Spread.of(opponent.accuracy).to_dict()
    if opponent.ratios is not None:
        found["nearest_distance_ratio"] = round(float(opponent.ratios.mean()), 6)
        found["novel_and_good"] = novel_and_good(opponent.ratios, opponent.accuracy, made.bound)
    return found
