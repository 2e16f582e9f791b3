"""Report metadata: run, data, zoo, architecture, settings, date and command."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from weightflow.data.info import without_folders
from weightflow.evaluation.context import EvaluationContext


def run_summary(context: EvaluationContext, seed: int, limit: int) -> dict[str, Any]:
    flow, config = context.flow, context.flow.header.config
    sampled = context.config
    return {
        "run": flow.folder.resolve().name,
        "dataset": without_folders(context.zoo.dataset),
        "zoo_networks": len(context.zoo),
        "zoo_identity": context.zoo.identity,
        "architecture": context.zoo.architecture.name,
        "parameters": context.zoo.architecture.parameters,
        "preset": config.preset,
        "steps": config.steps,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"weightflow report {flow.folder.name} --limit {limit} --seed {seed} --steps {sampled.steps} "
        f"--method {sampled.method}",
    }
