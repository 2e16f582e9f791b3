"""Networks in the first two principal components of the zoo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import scatter_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.report.generated import Generated, unseen_rows
from weightflow.report.novelty import NO_FRAME
from weightflow.zoo.canonicalize import align_to_frame, read_frame


def principal_map(context: EvaluationContext, made: Generated, most: int = 300) -> dict[str, Any]:
    """Coordinates of training, generated and held-out trained networks, and the variance they explain.

    Rows of classes that a network lacks count as the zoo's mean.
    """
    if not context.is_canonical:
        return {"points": None, "points_reason": NO_FRAME}
    step = max(1, len(context.rows) // most)
    some = range(len(context.rows))[: step * most : step]
    zoo = _centred(context, context.picked_wide(some), [context.tasks[i] for i in some])
    gram = _products(zoo, zoo)
    if len(gram) < 3:
        return {"points": None, "points_reason": "fewer than three networks span no plane"}
    values, vectors = torch.linalg.eigh(gram)
    top, lengths = vectors[:, -2:].flip(1), values[-2:].flip(0).clamp(min=1e-12).sqrt()
    others = {"generated": _brought(context, made.state, made.tasks)}
    if held_out := unseen_rows(context.zoo)[:most]:
        others["trained"] = _brought(context, context.zoo.load(held_out), context.tasks_of(held_out))
    points = {"zoo": top * lengths} | {n: _products(o, zoo) @ top / lengths for n, o in others.items()}
    return {
        "points": {name: [[round(v, 4) for v in xy] for xy in p.tolist()] for name, p in points.items()},
        "explained": [round(float(v), 4) for v in values[-2:].flip(0) / values.clamp(min=0).sum()],
    }


def _brought(context: EvaluationContext, state: StateDict, tasks: list[Task]) -> StateDict:
    architecture = context.zoo.architecture
    aligned = align_to_frame(architecture, read_frame(context.zoo), state, tasks)
    return _centred(context, scatter_classes(architecture, aligned, tasks), tasks)


def _centred(context: EvaluationContext, wide: StateDict, tasks: list[Task]) -> StateDict:
    used = context.used_by(tasks)
    return {n: (t - context.mean[n]) * used[n] for n, t in wide.items() if t.is_floating_point()}


def _products(a: StateDict, b: StateDict) -> Tensor:
    """Inner products of stacked networks, in float64."""
    parts = [a[name].flatten(1).double() @ b[name].flatten(1).double().T for name in a]
    return torch.stack(parts).sum(0)
