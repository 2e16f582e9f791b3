"""Sweeps over solver steps and guidance: accuracy, novelty and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Spread, evaluate_networks
from weightflow.evaluation.novelty import mean_distance
from weightflow.flow.denoising import DENOISERS
from weightflow.report.generated import ratios, sample
from weightflow.report.novelty import NO_FRAME, rms_ratio

STEPS = (1, 2, 4, 8, 16)
SOLVERS = (
    *(("euler", steps) for steps in STEPS),
    ("heun", 4),
    ("rk4", 3),
)
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def solvers(context: EvaluationContext, tasks: list[Task], seed: int) -> list[dict[str, Any]]:
    """Accuracy, root mean square and distance against the number of evaluations."""
    rows = []
    way = context.config.method
    for method, steps in (*((way, s) for s in STEPS), ("euler", 4)) if way in DENOISERS else SOLVERS:
        config = replace(context.config, method=method, steps=steps)
        state = sample(context, tasks, seed, config)
        figures = _figures(context, state, tasks)
        rows.append({"method": method, "steps": steps, "evaluations": config.evaluations, **figures})
    return rows


def guidance(
    context: EvaluationContext, tasks: Sequence[Task], seed: int, prompts: int = 10, each: int = 6
) -> Any:
    """The same against the scale of guidance, with `each` networks for every one of `prompts` tasks.

    `diversity` is the mean distance between two networks of one prompt, over that between two networks
    of the zoo's tasks.
    """
    if context.flow.header.config.drop_prompt == 0:
        return {"scales": None, "scales_reason": "the run was trained without dropped prompts"}
    if context.one_task:
        return {"scales": None, "scales_reason": "all networks have one task: there is no prompt to follow"}
    repeated = [task for task in tasks[:prompts] for _ in range(each)]
    spread, rows = mean_distance(context, context.some_state, context.some_tasks), []
    if not spread > 0:  # NaN of one network, 0 of copies
        return {
            "scales": None,
            "scales_reason": "the networks of the zoo that were measured are fewer than two, or alike",
        }
    for scale in SCALES:
        config = replace(context.config, guidance=scale)
        state = sample(context, repeated, seed, config)
        groups = [slice(start, start + each) for start in range(0, len(repeated), each)]
        within = [mean_distance(context, {n: t[g] for n, t in state.items()}, repeated[g]) for g in groups]
        diversity = round(sum(within) / len(within) / spread, 6)
        rows.append({"guidance": scale, **_figures(context, state, repeated), "diversity": diversity})
    return {"scales": rows, "prompts": len(tasks[:prompts]), "networks_a_prompt": each}


def _figures(context: EvaluationContext, state: StateDict, tasks: list[Task]) -> dict[str, Any]:
    distance = ratios(context, state, tasks)
    return {
        **Spread.of(evaluate_networks(context.zoo.architecture, state, tasks).accuracy).to_dict(),
        "rms_ratio": round(rms_ratio(context, state, tasks), 6),
        "nearest_distance_ratio": None if distance is None else round(float(distance.mean()), 6),
        **({"nearest_distance_ratio_reason": NO_FRAME} if distance is None else {}),
    }
