"""Networks generated for the tasks of one split of the zoo, beside the trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Predictions, judge
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
    judged: Predictions
    trained: Predictions
    ratios: Tensor | None

    @property
    def bound(self) -> Tensor:
        """What training reaches on each task: its own network's accuracy, or the mean where all have one."""
        accuracy = self.trained.accuracy
        if len({frozenset(task.classes) for task in self.tasks}) == 1:
            return accuracy.mean().expand(len(accuracy))
        return accuracy


def generate(known: EvaluationContext, split: str, seed: int, limit: int) -> Generated:
    """Networks for the first `limit` tasks of a split that the zoo has."""
    zoo = known.zoo
    rows = zoo.rows(split)[:limit]
    tasks = known.tasks_of(rows)
    state = sample(known, tasks, seed)
    return Generated(
        rows=rows,
        tasks=tasks,
        state=state,
        judged=judge(zoo.architecture, state, tasks),
        trained=judge(zoo.architecture, zoo.load(rows), tasks),
        ratios=ratios(known, state, tasks),
    )


def sample(
    known: EvaluationContext, tasks: Sequence[Task], seed: int, config: SampleConfig | None = None
) -> StateDict:
    """One network a task, with consecutive seeds; by default sampled as `known` says."""
    prompts = [Prompt(task.classes) for task in tasks]
    return known.flow.sample_states(prompts, [seed + i for i in range(len(tasks))], config or known.config)


def ratios(known: EvaluationContext, state: StateDict, tasks: Sequence[Task]) -> Tensor | None:
    return nearest_distances(known, state, tasks).ratios if known.is_canonical else None


def scatter(
    known: EvaluationContext, made: Generated, beside: Mapping[str, BaselineResult], most: int = 150
) -> dict[str, list[dict[str, float]]] | None:
    """Nearest-distance ratio and accuracy of single networks: generated, trained, and each baseline.

    `trained` are networks that the generator never saw, where the zoo held some out. None where the zoo
    is not canonical.
    """
    if made.ratios is None:
        return None
    populations = {"generated": (made.ratios, made.judged.accuracy)}
    held_out = unseen_rows(known.zoo)[:most]
    if held_out:
        tasks, state = known.tasks_of(held_out), known.zoo.load(held_out)
        found = ratios(known, state, tasks)
        assert found is not None
        populations["trained"] = (found, judge(known.zoo.architecture, state, tasks).accuracy)
    for name, opponent in beside.items():
        if opponent.accuracy is not None and opponent.ratios is not None:
            populations[name] = (opponent.ratios, opponent.accuracy)
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
