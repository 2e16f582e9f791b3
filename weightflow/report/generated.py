"""Networks generated for the tasks of one split of the zoo, beside the trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Predictions, evaluate_networks
from weightflow.evaluation.novelty import nearest_distances
from weightflow.flow.sampling_config import SampleConfig
from weightflow.report.baselines import BaselineResult
from weightflow.text import Prompt
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Generated:
    """One network for each task. `rows` of the zoo hold the trained networks of the same tasks.

    `ratios` are distances to the nearest training network over the zoo's spacing; None where the zoo is
    not canonical.
    """

    rows: list[int]
    tasks: list[Task]
    state: StateDict
    predictions: Predictions
    trained: Predictions
    ratios: Tensor | None

    @property
    def bound(self) -> Tensor:
        """What training reaches on each task: its own network's accuracy, or the mean where all have one."""
        accuracy = self.trained.accuracy
        if len({frozenset(task.classes) for task in self.tasks}) == 1:
            return accuracy.mean().expand(len(accuracy))
        return accuracy


def generate(context: EvaluationContext, split: str, seed: int, limit: int) -> Generated:
    """Networks for the first `limit` tasks of a split that the zoo has."""
    zoo = context.zoo
    rows = zoo.rows(split)[:limit]
    tasks = context.tasks_of(rows)
    state = sample(context, tasks, seed)
    return Generated(
        rows=rows,
        tasks=tasks,
        state=state,
        predictions=evaluate_networks(zoo.architecture, state, tasks),
        trained=evaluate_networks(zoo.architecture, zoo.load(rows), tasks),
        ratios=ratios(context, state, tasks),
    )


def sample(
    context: EvaluationContext, tasks: Sequence[Task], seed: int, config: SampleConfig | None = None
) -> StateDict:
    """One network a task, with consecutive seeds; by default sampled as `context` says."""
    prompts = [Prompt(task.classes) for task in tasks]
    return context.flow.sample_states(
        prompts, [seed + i for i in range(len(tasks))], config or context.config
    )


def ratios(context: EvaluationContext, state: StateDict, tasks: Sequence[Task]) -> Tensor | None:
    return nearest_distances(context, state, tasks).ratios if context.is_canonical else None


def scatter(
    context: EvaluationContext, made: Generated, beside: Mapping[str, BaselineResult], most: int = 150
) -> dict[str, list[dict[str, float]]] | None:
    """Nearest-distance ratio and accuracy of single networks: generated, trained, and each baseline.

    `trained` are networks that the generator never saw, where the zoo held some out. None where the zoo
    is not canonical.
    """
    if made.ratios is None:
        return None
    populations = {"generated": (made.ratios, made.predictions.accuracy)}
    held_out = unseen_rows(context.zoo)[:most]
    if held_out:
        tasks, state = context.tasks_of(held_out), context.zoo.load(held_out)
        found = ratios(context, state, tasks)
        assert found is not None
        populations["trained"] = (found, evaluate_networks(context.zoo.architecture, state, tasks).accuracy)
    for name, baseline in beside.items():
        if baseline.accuracy is not None and baseline.ratios is not None:
            populations[name] = (baseline.ratios, baseline.accuracy)
    return {
        name: [
            {"ratio": round(r, 4), "accuracy": round(a, 4)}
            for r, a in zip(x[:most].tolist(), y[:most].tolist(), strict=True)
        ]
        for name, (x, y) in populations.items()
    }


def unseen_rows(zoo: Zoo) -> list[int]:
    """Networks that the generator was not trained on: combinations it never saw, or held-out seeds."""
    return zoo.rows("unseen_combinations") or zoo.rows("validation")
