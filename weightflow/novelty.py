r"""Does it only memorise? Distances of generated networks to the zoo, beside the zoo's own.

Networks are compared in the zoo's frame, over the trained entries that both have (the rows of classes
that one of them lacks say nothing):

    d(a, b)^2 = mean of (a_i - b_i)^2 over shared entries i
    spacing = mean_n min_{m != n} d(n, m)
    nearest_distance_ratio = mean_g min_n d(g, n) / spacing

1 says that generated networks lie as far from the training networks as those lie from each other; near
0 they are copies. New alone is easily had, with noise, and so is good alone, with copies: what counts is
the share of networks that are both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightflow.canonicalize import follow, read_frame, scatter_classes
from weightflow.known import Known
from weightflow.zoo.logits import State
from weightflow.zoo.tasks import Task

BLOCK = 2**14
GOOD = 0.95
TIMES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Distances:
    """Distance of each network to its nearest training network, and the zoo's own spacing."""

    nearest: Float[Tensor, " networks"]
    zoo: float

    @property
    def ratios(self) -> Tensor:
        return self.nearest / self.zoo


def nearest_distances(known: Known, state: State, tasks: Sequence[Task]) -> Distances:
    """Networks are first brought into the zoo's frame, as the training networks were.

    `InputError` where the zoo is not canonical: then there is no frame.
    """
    architecture = known.zoo.architecture
    aligned = follow(architecture, read_frame(known.zoo), state, tasks)
    wide, used = scatter_classes(architecture, aligned, tasks), known.used_by(tasks)
    nearest = distances(_trained(known, wide), used, _trained(known, known.wide), known.used)
    return Distances(nearest.min(dim=1).values, spacing(known))


@lru_cache(maxsize=1)
def spacing(known: Known) -> float:
    """The zoo's leave-one-out distance: from a training network to the nearest other one, on average."""
    wide = _trained(known, known.wide)
    among = distances(wide, known.used, wide, known.used)
    return float(among.fill_diagonal_(torch.inf).min(dim=1).values.mean())


def _trained(known: Known, wide: State) -> State:
    """The tensors that training moved: running statistics and counters say nothing of it."""
    with torch.device("meta"):
        names = {name for name, _ in known.zoo.architecture.build().named_parameters()}
    return {name: tensor for name, tensor in wide.items() if name in names}


def distances(a: State, used_a: State, b: State, used_b: State) -> Float[Tensor, "n m"]:
    """`shared_distance` of stacked networks, tensor by tensor, so that memory stays bounded."""
    square: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for name, tensor in a.items():
        columns = [x.flatten(1).split(BLOCK, dim=1) for x in (tensor, used_a[name], b[name], used_b[name])]
        for block in zip(*columns, strict=True):
            more, shared = _shared_squares(*block)
            square, count = square + more, count + shared
    assert isinstance(square, Tensor)
    assert isinstance(count, Tensor)
    # heads of tasks that share no class have nothing in common: they are no neighbours
    return torch.where(count > 0, (square.clamp(min=0) / count.clamp(min=1)).sqrt(), torch.inf)


def shared_distance(
    a: Float[Tensor, "n entries"], used_a: Tensor, b: Float[Tensor, "m entries"], used_b: Tensor
) -> Float[Tensor, "n m"]:
    """Root mean square difference over the entries that both have."""
    return distances({"": a}, {"": used_a}, {"": b}, {"": used_b})


def _shared_squares(a: Tensor, used_a: Tensor, b: Tensor, used_b: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared differences over shared entries and how many there are, by matrix products."""
    a, b = a.double(), b.double()
    # one point in the middle for both: the products cancel less
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    if bool(used_a.all()) and bool(used_b.all()):
        square = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
        return square, torch.full_like(square, a.shape[1])
    used_a, used_b = used_a.double(), used_b.double()
    a, b = a * used_a, b * used_b
    return a.square() @ used_b.T + used_a @ b.square().T - 2 * a @ b.T, used_a @ used_b.T


def mean_distance(known: Known, state: State, tasks: Sequence[Task]) -> float:
    """Mean distance between any two networks of a stack: their diversity. NaN where none share an entry."""
    wide = _trained(known, scatter_classes(known.zoo.architecture, state, tasks))
    used = known.used_by(tasks)
    among = distances(wide, used, wide, used)
    pairs = among[~torch.eye(len(among), dtype=torch.bool)]
    return float(pairs[pairs.isfinite()].mean())


def novel_and_good(
    ratios: Float[Tensor, " networks"],
    accuracy: Float[Tensor, " networks"],
    trained: Float[Tensor, " networks"],
) -> dict[str, float]:
    """Share of networks at least `k` spacings from the zoo that have `GOOD` of the trained accuracy.

    `trained` is what training on each network's task reaches; the keys are the values of k.
    """
    good: Bool[Tensor, " networks"] = accuracy >= GOOD * trained
    return {str(k): round(float(((ratios >= k) & good).double().mean()), 6) for k in TIMES}


def root_mean_square(z: Tensor, used: Tensor) -> float:
    """Root mean square of tokens over the entries in use."""
    return float(((z**2 * used).sum() / used.sum()).sqrt())
