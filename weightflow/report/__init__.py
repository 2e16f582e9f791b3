"""The report of a run: what it generates, beside everything that it must beat, and how fast.

`report.json` holds the figures, `report.html` is one self-contained page. A figure that could not be
measured is null, with the reason in a key beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightflow.evaluation.context import open_known
from weightflow.evaluation.evaluate import describe, judge
from weightflow.flow.sampling_config import SampleConfig
from weightflow.report.baselines import opponents
from weightflow.report.diversity import diversity
from weightflow.report.ensembles import ensembles
from weightflow.report.environment import environment
from weightflow.report.fine_tuning import starts
from weightflow.report.generated import Generated, generate, scatter
from weightflow.report.novelty import novelty
from weightflow.report.pca_map import principal_map
from weightflow.report.speed import speed
from weightflow.report.splits import SPLITS, missing, split_figures
from weightflow.report.sweeps import guidance, solvers
from weightflow.report.verdict import verdict
from weightflow.training import run_store as runs

__all__ = ["make_report", "open_known", "verdict"]


def make_report(
    folder: Path,
    seed: int = 0,
    limit: int = 200,
    config: SampleConfig | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Generate networks for up to `limit` tasks of each split and measure everything on test images.

    `config` says how to sample, by default as the run says.

    Raises `InputError` where the run's zoo has moved or changed.
    """
    known = open_known(folder, config)
    sampled = known.config
    splits: dict[str, Any] = {}
    made: dict[str, Generated] = {}
    beside = {}
    for split in SPLITS:
        if not known.zoo.rows(split):
            splits |= missing(known, split)
            continue
        say(f"{split.replace('_', ' ')}: generating and judging")
        made[split] = generate(known, split, seed, limit)
        beside[split] = opponents(known, made[split].tasks, seed)
        splits[split] = split_figures(known, made[split], beside[split])
    focus = "unseen_combinations" if "unseen_combinations" in made else "seen"
    say("novelty, speed, solvers, guidance")
    found = {
        "zoo": describe(judge(known.zoo.architecture, known.state, known.tasks), known.zoo.architecture)
        | {"count": len(known.zoo)},
        "splits": splits,
        "focus": focus,
        "novelty": novelty(known, made[focus], made["seen"]),
        "speed": speed(known),
        "solvers": solvers(known, made[focus].tasks, seed),
        "guidance": guidance(known, made[focus].tasks, seed),
    }
    say("fine-tuning, ensembles, diversity")
    return found | {
        "diversity": diversity(known, made[focus].tasks, seed),
        "fine_tuning": starts(known, made[focus], seed),
        "ensembles": ensembles(known, made[focus].tasks, seed),
        "sample": {"method": sampled.method, "steps": sampled.steps, "guidance": sampled.guidance},
        "scatter": scatter(known, made[focus], beside[focus]),
        "map": principal_map(known, made[focus]),
        "training": runs.read_metrics(folder),
        "environment": environment(seed),
    }
