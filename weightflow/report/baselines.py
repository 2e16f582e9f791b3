"""Every baseline, judged once for a split's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines import BASELINES, Inapplicable, answer
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import judge
from weightflow.evaluation.novelty import nearest_distances


@dataclass(frozen=True)
class BaselineResult:
    """Accuracy of a baseline's network for each task and its distance ratio; or the reason for neither."""

    accuracy: Tensor | None = None
    ratios: Tensor | None = None
    reason: str | None = None


def opponents(known: EvaluationContext, tasks: Sequence[Task], seed: int) -> dict[str, BaselineResult]:
    return {name: _oppose(known, name, tasks, seed) for name in BASELINES}


def _oppose(known: EvaluationContext, name: str, tasks: Sequence[Task], seed: int) -> BaselineResult:
    try:
        state = answer(known, name, tasks, seed)
    except Inapplicable as reason:
        return BaselineResult(reason=str(reason))
    return BaselineResult(
        judge(known.zoo.architecture, state, tasks).accuracy,
        nearest_distances(known, state, tasks).ratios if known.is_canonical else None,
    )
