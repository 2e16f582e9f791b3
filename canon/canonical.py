r"""One frame for many networks: balance their scales, then match every one to the mean of all.

The first reference is one network; once the others lie near it their mean is a better one, because
what it keeps is what they share. Every network carries a permutation to that common frame, so that
the way from one network to another is a composition and any closed tour is the identity.

Crisostomi et al. 2024, arXiv:2405.17897 (matching to a universe); Stock et al. 2019 (balance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from canon import permutation as perm
from canon import scale
from canon.spec import PermutationSpec
from canon.weight_matching import match_weights

State = Mapping[str, Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Aligned:
    """Networks in one frame. `state = apply(permutation, apply_scale(scales, networks))`.

    `frame` is the reference that they were last matched to; `objective[r]` the mean over networks of
    the inner product with the reference of round r.
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
    rounds: int = 3,
    balance: bool = True,
    reference: Literal["mean", "first"] = "mean",
    start: str = "auto",
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Aligned:
    """Align networks, stacked on a first axis of every tensor, to one frame.

    Network 0 is the first reference; with `reference="mean"`, `rounds` more go to the mean of the
    networks as they then lie. `progress(done, total)` is called after every round.
    """
    spec.check(networks, batch=1)
    count = next(iter(networks.values())).shape[0]
    scales, state = scale.balance(spec, networks, stacked=True) if balance else ({}, dict(networks))
    total = 1 + (rounds if reference == "mean" else 0)
    permutation, objective = perm.identity(spec, (count,)), []
    frame = {name: tensor[0].clone() for name, tensor in state.items()}
    for round_ in range(total):
        if round_:
            frame = mean(state)
        match = match_weights(
            spec, frame, state, start=start if round_ == 0 else "identity", generator=generator
        )
        permutation = perm.compose(spec, permutation, match.permutation)
        state = perm.apply(spec, match.permutation, state)
        objective.append(float(match.objective.mean()))
        if progress is not None:
            progress(round_ + 1, total)
        if round_ and not any(match.moved.values()):
            break
    return Aligned(state, permutation, scales, frame, objective)


def align_to(
    spec: PermutationSpec,
    frame: State,
    networks: State,
    *,
    balance: bool = True,
    start: str = "auto",
    generator: torch.Generator | None = None,
) -> Aligned:
    """Bring one network, or many stacked on a first axis, into an existing frame."""
    name, axes = max(spec.axes.items(), key=lambda item: len(item[1]))
    stacked = networks[name].dim() > len(axes)
    scales, state = scale.balance(spec, networks, stacked=stacked) if balance else ({}, dict(networks))
    match = match_weights(spec, frame, state, start=start, generator=generator)
    state = perm.apply(spec, match.permutation, state)
    return Aligned(state, match.permutation, scales, dict(frame), [float(match.objective.mean())])


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
