"""The report of a run: generated networks against all baselines, and sampling speed.

`report.json` holds the figures, `report.html` is one self-contained page. A figure that could not be
measured is null, with the reason in a key beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from canon.io.files import sha256
from weightflow.evaluation.baselines import BASELINES
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import describe, evaluate_networks
from weightflow.executors import Executor
from weightflow.flow.sampling_config import SampleConfig
from weightflow.report.about import run_summary
from weightflow.report.baselines import baseline_results
from weightflow.report.diversity import diversity
from weightflow.report.ensembles import ensembles
from weightflow.report.environment import environment
from weightflow.report.examples import answers, confusion
from weightflow.report.fine_tuning import starts
from weightflow.report.generated import Generated, generate, scatter
from weightflow.report.novelty import novelty
from weightflow.report.parts import Parts
from weightflow.report.pca_map import principal_map
from weightflow.report.speed import speed
from weightflow.report.splits import SPLITS, missing, split_figures
from weightflow.report.sweeps import guidance, solvers
from weightflow.report.verdict import verdict
from weightflow.training import run_store as runs

_OWN_STEPS = {"solvers": 5, "guidance": 18, "diversity": 16, "fine_tuning": 18, "ensembles": 26}
"""How long a part takes beside one baseline, as measured for small networks; other parts are one step."""

__all__ = ["make_report", "open_context", "verdict"]


def make_report(
    folder: Path,
    seed: int = 0,
    limit: int = 200,
    config: SampleConfig | None = None,
    progress: Callable[[int, str], None] = lambda steps, note: None,
    parts: Parts | None = None,
    executor: Executor | None = None,
    expect: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """Generate networks for up to `limit` tasks of each split and measure everything on test images.

    As many training networks, at most, are measured for the zoo's own figures (accuracy, spacing, behaviour).
    `config` says how to sample, by default as the run says. `parts` keeps what is measured, so that a report
    which was stopped goes on. `executor` computes the baselines. `expect` is told how many steps are to be
    measured; `progress` is called with 0 and the name of each part before it, and with the steps that are done.

    Raises `InputError` where the run's zoo has moved or changed.
    """
    context, parts = open_context(folder, config, limit), Parts() if parts is None else parts
    parts.open(_identity(context, seed, limit))
    there = [split for split in SPLITS if context.zoo.rows(split)]
    focus = "unseen_combinations" if "unseen_combinations" in there else "seen"

    @cache
    def made(split: str) -> Generated:
        return generate(context, split, seed, limit)

    def split_part(split: str) -> dict[str, Any]:
        beside = baseline_results(context, made(split).tasks, seed, executor, lambda: progress(1, ""))
        shown = scatter(context, made(split), beside) if split == focus else None
        return {"figures": split_figures(context, made(split), beside), "scatter": shown}

    measures: dict[str, Callable[[], Any]] = {
        **{f"split {split}": partial(split_part, split) for split in there},
        "zoo": lambda: describe(
            evaluate_networks(context.zoo.architecture, context.some_state, context.some_tasks),
            context.zoo.architecture,
        ),
        "novelty": lambda: novelty(context, made(focus), made("seen")),
        "speed": lambda: speed(context),
        "solvers": lambda: solvers(context, made(focus).tasks, seed),
        "guidance": lambda: guidance(context, made(focus).tasks, seed),
        "diversity": lambda: diversity(context, made(focus).tasks, seed),
        "fine_tuning": lambda: starts(context, made(focus), seed),
        "ensembles": lambda: ensembles(context, made(focus).tasks, seed),
        "map": lambda: principal_map(context, made(focus)),
        "confusion": lambda: confusion(context, made(focus)),
        "examples": lambda: answers(context, made(focus)),
    }
    found: dict[str, Any] = {}
    expect(sum(_steps(name) for name in measures if name not in parts))
    for number, (name, measure) in enumerate(measures.items(), start=1):
        if name in parts:
            found[name] = parts.get(name, measure)
            continue
        progress(0, f"{name.replace('_', ' ')} ({number} of {len(measures)})")
        found[name] = parts.get(name, measure)
        progress(_OWN_STEPS.get(name, 1), "")
    by_split = {split: found.pop(f"split {split}") for split in there}
    sampled = context.config
    return {
        **found,
        "about": run_summary(context, seed, limit),
        "weights": context.flow.identity,
        "zoo": found["zoo"] | {"count": len(context.zoo), "judged": len(context.some)},
        "splits": {
            key: value
            for split in SPLITS
            for key, value in (
                {split: by_split[split]["figures"]} if split in by_split else missing(context, split)
            ).items()
        },
        "focus": focus,
        "sample": {"method": sampled.method, "steps": sampled.steps, "guidance": sampled.guidance},
        "scatter": by_split[focus]["scatter"],
        "training": runs.read_metrics(folder),
        "environment": environment(seed),
    }


def _steps(part: str) -> int:
    """Steps of the progress bar for a part; the baselines of a split count one by one."""
    return _OWN_STEPS.get(part, 1) + (len(BASELINES) if part.startswith("split ") else 0)


def _identity(context: EvaluationContext, seed: int, limit: int) -> str:
    """What the figures depend on: the generator, its zoo, how it is sampled, seed, limit and this version."""
    said = {
        "checkpoint": sha256(context.flow.folder / runs.CHECKPOINT),
        "zoo": context.zoo.identity,
        "sample": asdict(context.config),
        "seed": seed,
        "limit": limit,
        "version": metadata.version("weightflow"),
    }
    return json.dumps(said, sort_keys=True)
