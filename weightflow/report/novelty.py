"""Novelty and accuracy of the generated population, beside the zoo's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.error_overlap import compare_behaviour
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.novelty import GOOD, novel_and_good, root_mean_square, spacing, spacing_share
from weightflow.report.generated import Generated, ratios, unseen_rows
from weightflow.text import Prompt

NO_FRAME = "the zoo is not canonical, and distances need a common frame"


def novelty(context: EvaluationContext, made: Generated, seen: Generated) -> dict[str, Any]:
    """`made` is the split in focus; wrong predictions are compared on seen tasks, as only those have
    networks that the generator learned from."""
    zoo = evaluate_networks(context.zoo.architecture, context.some_state, context.some_tasks)
    ours = compare_behaviour(seen.predictions, seen.tasks, zoo, context.some_tasks)
    theirs = compare_behaviour(zoo, context.some_tasks, zoo, context.some_tasks)
    return {
        **_distances(context, made, seen),
        "max_wrong_iou": _beside(ours.wrong_iou, theirs.wrong_iou),
        "rms_ratio": round(rms_ratio(context, made.state, made.tasks), 6),
        "functional_disagreement": _beside(ours.disagreement, theirs.disagreement),
    }


def _beside(generated: float | None, zoo: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {"generated": generated, "zoo": zoo}
    if None in (generated, zoo):
        found["reason"] = "no combination of classes has networks to compare"
    return found


def _distances(context: EvaluationContext, made: Generated, seen: Generated) -> dict[str, Any]:
    if made.ratios is None or seen.ratios is None:
        names = (
            "nearest_distance_ratio",
            "nearest_distance_ratio_seen",
            "spacing",
            "spacing_share",
            "novel_and_good",
        )
        return {key: value for n in names for key, value in ((n, None), (f"{n}_reason", NO_FRAME))}
    rows = unseen_rows(context.zoo)[: len(made.tasks)]
    held_out = ratios(context, context.zoo.load(rows), context.tasks_of(rows)) if rows else None
    share = spacing_share(context)
    return {
        "nearest_distance_ratio": round(float(made.ratios.mean()), 6),
        "nearest_distance_ratio_seen": round(float(seen.ratios.mean()), 6),
        "nearest_distance_ratio_trained": None if held_out is None else round(float(held_out.mean()), 6),
        **({} if rows else {"nearest_distance_ratio_trained_reason": "the zoo holds out no network"}),
        "spacing": round(spacing(context), 6),
        "spacing_share": None if share is None else round(share, 6),
        **({"spacing_share_reason": "all weights of the zoo are zero"} if share is None else {}),
        "novel_and_good": novel_and_good(made.ratios, made.predictions.accuracy, made.bound),
        # a trained network is as good as itself: the share that lies as far
        **({} if held_out is None else {"novel_and_good_trained": _far(held_out)}),
        "good": GOOD,
    }


def _far(distances: Tensor) -> dict[str, float]:
    trained = torch.ones_like(distances)
    return novel_and_good(distances, trained, trained)


def rms_ratio(context: EvaluationContext, state: StateDict, tasks: list[Task]) -> float:
    """Root mean square of networks in the flow's coordinates, over the zoo's (of `context.some`)."""
    return _rms(context, state, tasks) / _rms(context, context.some_state, context.some_tasks)


def _rms(context: EvaluationContext, state: StateDict, tasks: list[Task]) -> float:
    present: Tensor = context.flow.prompts([Prompt(task.classes) for task in tasks]).present
    coordinates = context.flow.coordinates
    return root_mean_square(coordinates.encode(state, present), coordinates.used(present))
