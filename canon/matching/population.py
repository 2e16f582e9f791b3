r"""One frame for many networks: balance their scales, then match each to the mean of the others.

The first reference is one network; once the others lie near it a mean is a better one, because what it
keeps is what they share. A network is left out of the mean that it is matched to: its own noise would
hold it where it stands. The networks take turns in a few blocks, so that later ones see earlier moves.
Tensors that write the outputs weigh more in the match: their units meet labels that are fixed.

Every network carries a permutation to the common frame, so that the way from one network to another is
a composition and any closed tour is the identity.

Crisostomi et al. 2024, arXiv:2405.17897 (matching to a universe); Stock et al. 2019 (balance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.actions import scaling
from canon.actions.signs import of_old_units
from canon.matching.result import Match
from canon.matching.signed_weight_matching import match_signed
from canon.spec import PermutationSpec
from canon.types import State

Progress = Callable[[int, int], None]

# Where means of Fashion-MNIST perceptrons from two initialisations classify best, of 1, 3, 10 and 30; no
# test image was asked (`python -m benchmarks.fashion FOLDER --choose`).
OUTPUTS = 3.0
BLOCKS = 5


@dataclass(frozen=True)
class Aligned:
    """Networks in one frame. `state = apply(permutation, apply_scale(scales, networks))`.

    Args:
        state: the aligned networks, stacked on a first axis of every tensor.
        permutation: for each group, the old unit at each new place.
        scales: for each group, the factor of each old unit.
        frame: what a new network is matched to: their mean, or the first network.
        objective: for each round, the mean over networks of the inner product with the reference, outputs
            emphasized.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> stacked = {k: torch.stack([v, b.state_dict()[k]]) for k, v in a.state_dict().items()}
        >>> canon.align_many(spec, stacked).frame["0.weight"].shape
        torch.Size([8, 4])
    """

    state: dict[str, Tensor]
    permutation: dict[str, Tensor]
    scales: dict[str, Tensor]
    frame: dict[str, Tensor]
    objective: list[float]


def align_many(
    spec: PermutationSpec,
    networks: State,
    *,
    rounds: int = 4,
    balance: bool = True,
    reference: Literal["mean", "first"] = "mean",
    start: str = "auto",
    outputs: float = OUTPUTS,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Aligned:
    """Align networks, stacked on a first axis of every tensor, to one frame.

    Network 0 is the first reference; with `reference="mean"`, up to `rounds` more go to the mean of the other
    networks as they then lie. Generalises Git Re-Basin's MergeMany (Ainsworth et al. 2023, arXiv:2209.04836).

    Args:
        spec: the symmetries of the architecture.
        networks: every tensor with a first axis of networks.
        rounds: the most rounds of matching to the mean.
        balance: bring every network to its L2-minimal scales before.
        reference: "mean" or "first".
        start: where matching starts.
        outputs: how many times tensors that write the outputs count in every match.
        generator: visits groups in a random order.
        progress: called with (done, total) after every round.

    Returns:
        The aligned networks, how they were moved, and the frame.

    Raises:
        InputError: keys or shapes do not fit the spec.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> stacked = {k: torch.stack([v, b.state_dict()[k]]) for k, v in a.state_dict().items()}
        >>> canon.align_many(spec, stacked).state["0.weight"].shape
        torch.Size([2, 8, 4])
    """
    spec.check(networks, batch=1)
    count = next(iter(networks.values())).shape[0]
    scales, state = scaling.balance(spec, networks, stacked=True) if balance else ({}, dict(networks))
    total = 1 + (rounds if reference == "mean" and count > 1 else 0)
    frame = {name: tensor[0].clone() for name, tensor in state.items()}
    match = match_signed(spec, emphasize(spec, frame, outputs), state, start=start, generator=generator)
    permutation, scales, state = match.permutation, scales | match.scales, _moved(spec, match, state)
    objective = [float(match.objective.mean())]
    if progress is not None:
        progress(1, total)
    for round_ in range(1, total):
        reached, moved = _round(spec, state, permutation, scales, outputs, generator)
        objective.append(reached)
        if progress is not None:
            progress(round_ + 1, total)
        if not moved:
            break
    return Aligned(state, permutation, scales, mean(state) if total > 1 else frame, objective)


def _round(
    spec: PermutationSpec,
    state: dict[str, Tensor],
    permutation: dict[str, Tensor],
    scales: dict[str, Tensor],
    outputs: float,
    generator: torch.Generator | None,
) -> tuple[float, bool]:
    """Match every network to the mean of the others, in place: mean objective, did any unit move."""
    count = next(iter(state.values())).shape[0]
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    reached, moved = 0.0, False
    for rows in order.chunk(BLOCKS):
        part = {name: tensor[rows] for name, tensor in state.items()}
        others = {name: _mean_of_others(state[name], tensor) for name, tensor in part.items()}
        match = match_signed(
            spec, emphasize(spec, others, outputs), part, start="identity", generator=generator
        )
        reached += float(match.objective.sum()) / count
        negated = any(bool((sign < 0).any()) for sign in match.scales.values())
        moved = moved or negated or any(match.moved.values())
        for name, tensor in _moved(spec, match, part).items():
            state[name][rows] = tensor
        before = {name: p[rows] for name, p in permutation.items()}
        for name, sign in of_old_units(spec, match.scales, before).items():
            scales[name][rows] *= sign
        for name, p in perm.compose(spec, before, match.permutation).items():
            permutation[name][rows] = p
    return reached, moved


def _moved(spec: PermutationSpec, match: Match, networks: State) -> dict[str, Tensor]:
    if match.scales:
        networks = scaling.apply_scale_unchecked(spec, match.scales, networks)
    return perm.apply_unchecked(spec, match.permutation, networks)


def _mean_of_others(everyone: Tensor, part: Tensor) -> Tensor:
    if not part.is_floating_point():
        return part
    total = everyone.sum(0, dtype=torch.promote_types(part.dtype, torch.float32))
    return ((total - part) / (len(everyone) - 1)).to(part.dtype)


def emphasize(spec: PermutationSpec, state: State, outputs: float = OUTPUTS) -> dict[str, Tensor]:
    """A reference in which tensors that write the outputs count `outputs` times."""
    return {
        name: tensor * outputs if _writes_outputs(spec, name) else tensor for name, tensor in state.items()
    }


def _writes_outputs(spec: PermutationSpec, name: str) -> bool:
    axes = spec.axes[name]
    return len(axes) > 1 and not axes[0].groups and any(axis.groups for axis in axes[1:])


def align_to(
    spec: PermutationSpec,
    frame: State,
    networks: State,
    *,
    balance: bool = True,
    start: str = "auto",
    generator: torch.Generator | None = None,
) -> Aligned:
    """Bring one network, or many stacked on a first axis, into an existing frame.

    Args:
        spec: the symmetries of the architecture.
        frame: the `frame` of `align_many`, or any network.
        networks: a state dict, or many stacked.
        balance: bring the networks to their L2-minimal scales before.
        start: where matching starts.
        generator: visits groups in a random order.

    Returns:
        The aligned networks; their `frame` is the one given.

    Raises:
        InputError: keys or shapes do not fit the spec.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> canon.align_to(spec, a.state_dict(), b.state_dict()).state["0.weight"].shape
        torch.Size([8, 4])
    """
    name, axes = max(spec.axes.items(), key=lambda item: len(item[1]))
    stacked = name in networks and networks[name].dim() > len(axes)
    spec.check(networks, batch=int(stacked))
    spec.check(frame)
    scales, state = scaling.balance(spec, networks, stacked=stacked) if balance else ({}, dict(networks))
    match = match_signed(spec, emphasize(spec, frame), state, start=start, generator=generator)
    state = _moved(spec, match, state)
    return Aligned(
        state, match.permutation, scales | match.scales, dict(frame), [float(match.objective.mean())]
    )


def mean(networks: State) -> dict[str, Tensor]:
    """The mean network of a stack; of what is not a float (counters), the first network's."""
    return {
        name: tensor.double().mean(0).to(tensor.dtype) if tensor.is_floating_point() else tensor[0].clone()
        for name, tensor in networks.items()
    }


def between(
    spec: PermutationSpec, permutation: perm.Permutation, source: int, target: int
) -> dict[str, Tensor]:
    """From network `source` to network `target`, through the frame: cycles compose to the identity."""
    there = {name: p[source] for name, p in permutation.items()}
    back = perm.invert(spec, {name: p[target] for name, p in permutation.items()})
    return perm.compose(spec, there, back)
