"""Every baseline, evaluated once on a split's tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines import BASELINES, Inapplicable, answer
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.novelty import nearest_distances
from weightflow.executors import Executor, InProcess


@dataclass(frozen=True)
class BaselineResult:
    """Accuracy of a baseline's network for each task and its distance ratio; or the reason for neither."""

    accuracy: Tensor | None = None
    ratios: Tensor | None = None
    reason: str | None = None


def baseline_results(
    context: EvaluationContext,
    tasks: Sequence[Task],
    seed: int,
    executor: Executor | None = None,
    done: Callable[[], None] = lambda: None,
) -> dict[str, BaselineResult]:
    """Each baseline's result, computed by `executor` (in this process by default); `done` is called after each."""
    evaluated = (executor or InProcess()).map(partial(_evaluated, context, tasks, seed), BASELINES)
    found = {}
    for name, result in zip(BASELINES, evaluated, strict=True):
        found[name] = result
        done()
    return found


def _evaluated(context: EvaluationContext, tasks: Sequence[Task], seed: int, name: str) -> BaselineResult:
    try:
        state = answer(context, name, tasks, seed)
    except Inapplicable as reason:
        return BaselineResult(reason=str(reason))
    return BaselineResult(
        evaluate_networks(context.zoo.architecture, state, tasks).accuracy,
        nearest_distances(context, state, tasks).ratios if context.is_canonical else None,
    )
