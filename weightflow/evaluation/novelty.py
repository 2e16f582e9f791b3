r"""Novelty: distances of generated networks to the zoo, relative to the zoo's own spacing.

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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import scatter_classes
from weightflow.batched.tasks import Task
from weightflow.evaluation.context import EvaluationContext
from weightflow.zoo.canonicalize import align_to_frame, read_frame

BLOCK, ROWS = 2**14, 2**8
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


def nearest_distances(context: EvaluationContext, state: StateDict, tasks: Sequence[Task]) -> Distances:
    """Networks are first brought into the zoo's frame, as the training networks were.

    `InputError` where the zoo is not canonical: then there is no frame.
    """
    architecture = context.zoo.architecture
    aligned = align_to_frame(architecture, read_frame(context.zoo), state, tasks)
    wide = scatter_classes(architecture, aligned, tasks)
    rows = Rows(_trained(context, wide), context.classes_of(tasks))
    return Distances(nearest(rows, _zoo(context), architecture.class_axes), spacing(context))


@lru_cache(maxsize=1)
def spacing(context: EvaluationContext) -> float:
    """The zoo's leave-one-out distance: from a training network to the nearest other one, on average.

    The average is over `context.some`, the nearest is among all.
    """
    axes, some = context.zoo.architecture.class_axes, torch.tensor(context.some)
    return float(nearest(_some(context), _zoo(context), axes, some).mean())


def spacing_share(context: EvaluationContext) -> float | None:
    """The spacing over the root mean square of training networks; None where all their weights are zero."""
    some = _some(context)
    zero = Rows({n: torch.zeros_like(t[:1]) for n, t in some.state.items()}, torch.ones_like(some.has[:1]))
    size = float(nearest(some, zero.parts(), context.zoo.architecture.class_axes).square().mean().sqrt())
    return spacing(context) / size if size else None


@dataclass(frozen=True)
class Rows:
    """Stacked networks with one logit for every class, and the classes that each has: (networks, classes)."""

    state: StateDict
    has: Bool[Tensor, "networks classes"]

    def __len__(self) -> int:
        return len(self.has)

    def __getitem__(self, rows: Tensor | slice) -> Rows:
        return Rows({name: tensor[rows] for name, tensor in self.state.items()}, self.has[rows])

    def parts(self) -> Iterator[tuple[Tensor, Rows]]:
        """A few networks at a time, with their positions: memory does not grow with the number of networks."""
        for begin in range(0, len(self), ROWS):
            positions = torch.arange(begin, min(begin + ROWS, len(self)))
            yield positions, self[begin : begin + ROWS]


def _zoo(context: EvaluationContext) -> Iterator[tuple[Tensor, Rows]]:
    """The training networks, a few at a time, with their positions."""
    for positions, wide in context.parts():
        for inside, rows in Rows(_trained(context, wide), context.has_class[positions]).parts():
            yield positions[inside], rows


def _some(context: EvaluationContext) -> Rows:
    """The training networks that are measured."""
    return Rows(_trained(context, context.picked_wide(context.some)), context.has_class[context.some])


def _trained(context: EvaluationContext, wide: StateDict) -> StateDict:
    """The trained tensors: running statistics and counters are excluded."""
    with torch.device("meta"):
        names = {name for name, _ in context.zoo.architecture.build().named_parameters()}
    return {name: tensor for name, tensor in wide.items() if name in names}


def _blocks(
    a: Rows, parts: Iterable[tuple[Tensor, Rows]], class_axes: Mapping[str, int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Distances in blocks, with the positions of the rows of both."""
    for theirs, y in parts:
        for own, x in a.parts():
            yield own, theirs, distances(x.state, x.has, y.state, y.has, class_axes)


def nearest(
    a: Rows,
    parts: Iterable[tuple[Tensor, Rows]],
    class_axes: Mapping[str, int],
    itself: Int[Tensor, " networks"] | None = None,
) -> Float[Tensor, " networks"]:
    """Distance of each network of `a` to the nearest one in `parts`, infinite where none shares anything with it.

    `parts` are networks with their positions; `itself` says at which one each network of `a` is, where it is
    one: that one is left out.
    """
    found = torch.full((len(a),), torch.inf, dtype=torch.float64)
    for own, theirs, block in _blocks(a, parts, class_axes):
        if itself is not None:
            block[itself[own, None] == theirs] = torch.inf
        found[own] = torch.minimum(found[own], block.min(dim=1).values)
    return found


def distances(
    a: StateDict,
    has_a: Bool[Tensor, "n classes"],
    b: StateDict,
    has_b: Bool[Tensor, "m classes"],
    class_axes: Mapping[str, int],
) -> Float[Tensor, "n m"]:
    """Root mean square difference over what both have, a block of entries at a time.

    `class_axes` names the tensors with an axis of classes (counted without the stack); `has` says whose
    classes a network has.
    """
    square = torch.zeros(len(has_a), len(has_b), dtype=torch.float64)
    count, shared = square.clone(), has_a.double() @ has_b.double().T
    for name, tensor in a.items():
        if name not in class_axes:
            square += _squares(tensor.flatten(1), b[name].flatten(1))
            count += tensor[0].numel()
            continue
        axis = class_axes[name] + 1
        rows_a, rows_b = (
            t.movedim(axis, 1).flatten(2) if t.dim() > 2 else t.unsqueeze(2) for t in (tensor, b[name])
        )
        square += _squares_of_rows(rows_a, has_a, rows_b, has_b)
        count += shared * rows_a.shape[2]
    # heads of tasks that share no class have nothing in common: they are no neighbours
    return torch.where(count > 0, (square.clamp(min=0) / count.clamp(min=1)).sqrt(), torch.inf)


def _squares(a: Float[Tensor, "n entries"], b: Float[Tensor, "m entries"]) -> Float[Tensor, "n m"]:
    """Squared distances by matrix products, in float64."""
    found = torch.zeros(len(a), len(b), dtype=torch.float64)
    for x, y in zip(a.split(BLOCK, dim=1), b.split(BLOCK, dim=1), strict=True):
        x, y = x.double(), y.double()
        # both centred at a common mean: less cancellation in the products
        x, y = x - y.mean(dim=0), y - y.mean(dim=0)
        found += x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return found


def _squares_of_rows(
    a: Float[Tensor, "n classes width"], has_a: Tensor, b: Float[Tensor, "m classes width"], has_b: Tensor
) -> Float[Tensor, "n m"]:
    """The same over the rows of classes that both have: the others are zero, and their norms left out."""
    found = torch.zeros(len(a), len(b), dtype=torch.float64)
    size = max(1, BLOCK // a.shape[1])
    mask_a, mask_b = has_a.double(), has_b.double()
    for x, y in zip(a.split(size, dim=2), b.split(size, dim=2), strict=True):
        x, y = x.double() * mask_a.unsqueeze(2), y.double() * mask_b.unsqueeze(2)
        found += x.square().sum(2) @ mask_b.T + mask_a @ y.square().sum(2).T
        found -= 2 * x.flatten(1) @ y.flatten(1).T
    return found


def mean_distance(context: EvaluationContext, state: StateDict, tasks: Sequence[Task]) -> float:
    """Mean distance between any two networks of a stack that share something: their diversity.

    NaN where there are none.
    """
    architecture = context.zoo.architecture
    wide = scatter_classes(architecture, state, tasks)
    rows, total, count = Rows(_trained(context, wide), context.classes_of(tasks)), 0.0, 0
    for own, theirs, block in _blocks(rows, rows.parts(), architecture.class_axes):
        other = own[:, None] != theirs
        among = block[other & block.isfinite()]
        total, count = total + float(among.sum()), count + len(among)
    return total / count if count else float("nan")


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
