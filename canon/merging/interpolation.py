r"""Linear interpolation between networks, loss barriers, and weighted averages.

θ(λ) = (1 − λ) θ_A + λ θ_B. The loss barrier is how far the loss rises above the straight line between
the losses of the ends (Frankle et al. 2020, arXiv:1912.05671; Entezari et al. 2022, arXiv:2110.06296):

    max over λ of  L(θ(λ)) − [(1 − λ) L(θ_A) + λ L(θ_B)],

and the accuracy barrier how far the accuracy falls below it. Both are 0 or more, since λ = 0 counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from canon.errors import InputError
from canon.io.dtypes import is_mask
from canon.models.loading import call
from canon.types import LazyState, State, like

# Entries that are in float64 at once.
PIECE = 2**20

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """Mean loss, and accuracy as a fraction of 1."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Curve:
    """Scores along a path: 0 is the first network, 1 the second.

    Args:
        weights: the places on the path.
        scores: mean loss (nats) and accuracy (fraction of 1) at each.

    Example:
        >>> import canon
        >>> from canon.merging.interpolation import Score
        >>> canon.Curve((0.0, 0.5, 1.0), (Score(0.1, 0.9), Score(0.5, 0.6), Score(0.1, 0.9))).loss_barrier
        0.4
    """

    weights: tuple[float, ...]
    scores: tuple[Score, ...]

    @property
    def loss_barrier(self) -> float:
        return max(score.loss - base for score, base in self._against([s.loss for s in self.scores]))

    @property
    def accuracy_barrier(self) -> float:
        return max(base - score.accuracy for score, base in self._against([s.accuracy for s in self.scores]))

    def _against(self, values: Sequence[float]) -> Iterable[tuple[Score, float]]:
        first, last = values[0], values[-1]
        for weight, score in zip(self.weights, self.scores, strict=True):
            yield score, first + weight * (last - first)


def merge(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of networks, in float64, with the dtypes of the first.

    `weights` are divided by their sum; integers (counters, indices) are the first network's. Raises
    `InputError` where there are as many weights as networks not, or where their sum is not positive.
    """
    return dict(merge_lazily(states, weights))


def merge_lazily(states: Sequence[State], weights: Sequence[float] | None = None) -> LazyState:
    """`merge`, each tensor made when it is asked for."""
    shares = normalized(len(states), weights)

    def mean(name: str) -> Tensor:
        tensor = states[0][name]
        if not tensor.is_floating_point() or is_mask(tensor):
            return tensor.clone()
        made = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        pieces = [state[name].flatten().split(PIECE) for state in states]
        for target, *parts in zip(made.view(-1).split(PIECE), *pieces, strict=True):
            total = sum(share * part.double() for share, part in zip(shares, parts, strict=True))
            target.copy_(torch.as_tensor(total))
        return made

    return LazyState(states[0], mean, like(states[0]))


def normalized(count: int, weights: Sequence[float] | None) -> list[float]:
    """`weights` divided by their sum, equal ones if not given; `InputError` where they do not fit."""
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise InputError(f"there are {count} networks and {len(weights)} weights; give one for each")
    if not 0 < sum(weights) < float("inf"):
        raise InputError(f"the weights {weights} add up to {sum(weights)}; expected a positive number")
    return [weight / sum(weights) for weight in weights]


def lerp(a: State, b: State, weight: float) -> dict[str, Tensor]:
    """(1 − weight) a + weight b, exactly a at 0 and b at 1."""
    if weight in (0, 1):
        return {name: tensor.clone() for name, tensor in (b if weight else a).items()}
    return merge((a, b), (1 - weight, weight))


@torch.no_grad()
def evaluate(module: nn.Module, state: State, batches: Batches, loss: Loss = cross_entropy) -> Score:
    """Mean loss and accuracy of `state`, in the module's own dtypes, over (x, y) batches."""
    total, right, count = 0.0, 0, 0
    own = module.state_dict()
    loaded = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    for x, y in batches:
        logits = logits_of(call(module, loaded, (x,)))
        if loss is cross_entropy and len(y) and int(y.max()) >= logits.shape[1]:
            raise InputError(f"y holds class {int(y.max())}, the network has {logits.shape[1]} classes")
        total += loss(logits, y).double().item() * len(y)
        right += int((logits.argmax(dim=-1) == y).sum())
        count += len(y)
    return Score(total / count, right / count)


def logits_of(output: object) -> Tensor:
    """The logits in what a network returned: a tensor, its `logits`, or the first of a tuple."""
    found = getattr(output, "logits", output)
    found = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(found, Tensor) or found.dim() != 2:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the network returned {what}; expected logits (batch, classes)")
    return found


def curve(
    module: nn.Module,
    a: State,
    b: State,
    batches: Callable[[], Batches],
    *,
    points: int = 11,
    loss: Loss = cross_entropy,
    repair: Callable[[dict[str, Tensor], float], State] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Curve:
    """Scores at `points` evenly spaced λ, ends included; `batches()` gives the data afresh each time.

    `repair(state, λ)` may correct the statistics of a network between the ends; `advance` is called
    after each point.
    """
    if points < 3:
        raise InputError(f"a line needs 3 points or more to have a barrier, not {points}")
    module = evaluation_copy(module)
    weights = tuple(step / (points - 1) for step in range(points))
    scores = []
    for weight in weights:
        state: State = lerp(a, b, weight)
        if repair is not None and 0 < weight < 1:
            state = repair(dict(state), weight)
        scores.append(evaluate(module, state, batches(), loss))
        advance()
    return Curve(weights, tuple(scores))


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode; an exported program keeps the only mode it has."""
    module = copy.deepcopy(module)
    try:
        return module.eval()
    except NotImplementedError:
        return module
