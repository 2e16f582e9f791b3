r"""Does it only memorise? Distances and errors of generated networks, beside the zoo's own.

Networks are compared in the zoo's frame, over the entries that both have (the rows of classes that
one of them lacks say nothing):

    d(a, b)^2 = mean of (a_i - b_i)^2 over shared entries i
    nearest_distance_ratio = mean_g min_n d(g, n) / mean_n min_{m != n} d(n, m)

1 says that generated networks lie as far from the training networks as those lie from each other; near
0 they are copies. The intersection over union of wrong predictions and the share of examples on which
two networks disagree compare what networks do, among networks of one combination of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightflow import datasets
from weightflow.baselines import Known
from weightflow.canonicalize import follow, read_frame, scatter_classes, widen
from weightflow.evaluate import Judged
from weightflow.zoo.logits import State, class_table, pad_with_zeros
from weightflow.zoo.tasks import Task


def shared_distance(
    a: Float[Tensor, "n entries"], used_a: Tensor, b: Float[Tensor, "m entries"], used_b: Tensor
) -> Float[Tensor, "n m"]:
    """Root mean square difference over the entries that both have, by three matrix products."""
    a, b, used_a, used_b = (x.double() for x in (a, b, used_a, used_b))
    a, b = a * used_a, b * used_b
    square = (a**2) @ used_b.T + used_a @ (b**2).T - 2 * a @ b.T
    return (square.clamp(min=0) / (used_a @ used_b.T).clamp(min=1)).sqrt()


@dataclass(frozen=True)
class Distances:
    """Distance of each generated network to its nearest training network, and the zoo's own mean."""

    generated: Float[Tensor, " networks"]
    zoo: float

    @property
    def ratios(self) -> Tensor:
        return self.generated / self.zoo


def nearest_distances(known: Known, state: State, tasks: Sequence[Task]) -> Distances:
    """Generated networks are first brought into the zoo's frame, as the training networks were."""
    architecture = known.zoo.architecture
    aligned = follow(architecture, read_frame(known.zoo), state, tasks)
    own, own_used = _flat(known.wide), _flat(known.used)
    data = datasets.load(known.zoo.dataset)
    wide = scatter_classes(architecture, aligned, tasks)
    has = class_table(data, tasks, architecture.classes)[0] >= 0
    ones = {name: torch.ones_like(tensor) for name, tensor in wide.items()}
    used = pad_with_zeros(widen(architecture, len(data.class_names)), ones, has)
    among = shared_distance(own, own_used, own, own_used).fill_diagonal_(torch.inf)
    nearest = shared_distance(_flat(wide), _flat(used), own, own_used).min(dim=1).values
    return Distances(nearest, float(among.min(dim=1).values.mean()))


def _flat(state: State) -> Tensor:
    return torch.cat([tensor.flatten(1) for tensor in state.values()], dim=1)


@dataclass(frozen=True)
class Behaviours:
    """Means over networks; None where no combination of classes has networks to compare."""

    wrong_iou: float | None
    disagreement: float | None


def compare_behaviour(
    judged: Judged, tasks: Sequence[Task], others: Judged, other_tasks: Sequence[Task]
) -> Behaviours:
    """Each network against the others of the same combination of classes.

    `wrong_iou` is the largest intersection over union of wrong predictions with any other network (two
    networks without a mistake agree in full: 1), `disagreement` the mean share of counted examples on
    which the two say different things. Passing the same population twice leaves each network itself out.
    """
    same, members = judged is others, _by_combination(other_tasks)
    ious, disagreements = [], []
    for row, task in enumerate(tasks):
        rows = [i for i in members.get(frozenset(task.classes), []) if not (same and i == row)]
        if not rows:
            continue
        wrong, theirs = judged.wrong[row], others.wrong[rows]
        union = (wrong | theirs).sum(1)
        iou = torch.where(union > 0, (wrong & theirs).sum(1) / union.clamp(min=1), 1.0)
        differs = (judged.predicted[row] != others.predicted[rows]) & judged.counted[row]
        ious.append(float(iou.max()))
        disagreements.append(float(differs.sum(1).float().mean() / judged.counted[row].sum()))
    if not ious:
        return Behaviours(None, None)
    return Behaviours(sum(ious) / len(ious), sum(disagreements) / len(disagreements))


def _by_combination(tasks: Sequence[Task]) -> dict[frozenset[str], list[int]]:
    members: dict[frozenset[str], list[int]] = {}
    for row, task in enumerate(tasks):
        members.setdefault(frozenset(task.classes), []).append(row)
    return members


def root_mean_square(z: Tensor, used: Tensor) -> float:
    """Root mean square of tokens over the entries in use."""
    return float(((z**2 * used).sum() / used.sum()).sqrt())
