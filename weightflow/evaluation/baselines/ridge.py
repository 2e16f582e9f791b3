r"""Ridge regression from class vectors to mean rows of the last layer.

With centred class vectors X and mean rows Y of the classes that the zoo knows, and K = X X^T,

    row(x) = mean + x X^T (K + lambda I)^-1 (Y - mean)

lambda is the one of least leave-one-class-out error, in closed form. Everything before the last layer is
the zoo's mean. It knows no task: a class has one row wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.context import EvaluationContext

PENALTIES = tuple(10.0**power for power in range(-4, 4))


def ridge_rows(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """Rows predicted from text for every class, also for classes that the zoo never saw."""
    architecture = context.zoo.architecture
    if not architecture.class_axes:
        raise Inapplicable("the architecture has no row for a class")
    if context.one_task:
        raise Inapplicable("all networks have one task, so that it would be the mean of the zoo")
    return _with_rows(context, tasks, predict_rows)


def nearest_class(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """For every class the mean row of the known class nearest to it in text."""
    if not context.zoo.architecture.class_axes:
        raise Inapplicable("the architecture has no row for a class")
    return _with_rows(context, tasks, lambda x, y, asked: y[(asked @ x.T).argmax(dim=1)])


def _with_rows(
    context: EvaluationContext, tasks: Sequence[Task], predict: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> StateDict:
    """The mean network with one row a class, predicted from the rows of known classes."""
    names = context.data.class_names
    seen, asked = context.has_class.any(dim=0), context.classes_of(tasks).any(dim=0)
    wanted = torch.nonzero(seen | asked).squeeze(1)  # a table of vectors may lack the others
    vectors = torch.zeros(len(names), context.flow.encoder.width, dtype=torch.float64)
    encoded = context.flow.encoder.encode([names[i] for i in wanted.tolist()])
    vectors[wanted] = encoded.double() / context.flow.encoder.width**0.5
    wide = dict(context.mean)
    for name, axis in context.zoo.architecture.class_axes.items():
        rows = wide[name].movedim(axis, 0)
        found = predict(vectors[seen], rows[seen].reshape(int(seen.sum()), -1).double(), vectors)
        wide[name] = found.to(rows.dtype).view(rows.shape).movedim(0, axis)
    wide = {name: t.expand(len(tasks), *t.shape).clone() for name, t in wide.items()}
    return gather_classes(context.zoo.architecture, wide, tasks)


def predict_rows(
    x: Float[Tensor, "seen text"], y: Float[Tensor, "seen row"], asked: Float[Tensor, "classes text"]
) -> Float[Tensor, "classes row"]:
    """Ridge regression of y on x, at `asked`; the penalty is the best of `PENALTIES` left one out."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y, asked = x - x_mean, y - y_mean, asked - x_mean
    kernel, identity = x @ x.T, torch.eye(len(x), dtype=x.dtype)

    def error(penalty: float) -> float:
        hat = kernel @ torch.linalg.inv(kernel + penalty * identity)
        left_out = (y - hat @ y) / (1 - hat.diagonal()).clamp(min=1e-9).unsqueeze(1)
        return float(left_out.square().mean())

    best = min(PENALTIES, key=error)
    return y_mean + asked @ x.T @ torch.linalg.solve(kernel + best * identity, y)
