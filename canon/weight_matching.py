r"""Git Re-Basin's weight matching: coordinate ascent on sum_T <A_T, P B_T>, one family of groups at a time.

Each step is an exact assignment given the other groups; only gains are accepted, in float64. Many
networks are matched to one reference together: the Gram products are batched, and a network drops out
of the sweeps as soon as none of its families has anything new to look at.

Ainsworth et al. 2023, arXiv:2209.04836.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from canon import permutation as perm
from canon.errors import InputError
from canon.gram import Family, Scores
from canon.match import Match
from canon.spec import PermutationSpec
from canon.starts import STARTS
from canon.transfusion import solve_family

State = Mapping[str, Tensor]

# Networks that are matched together: enough to fill the products, few enough to stay near the cores.
CHUNK_BYTES = 2**25
# Where anchors decide every group by at least this share of its weights, one start is enough.
SURE = 0.5


def match_weights(
    spec: PermutationSpec,
    reference: State,
    networks: State,
    *,
    start: str = "auto",
    sweeps: int = 100,
    tolerance: float = 1e-12,
    generator: torch.Generator | None = None,
) -> Match:
    """The permutation that brings `networks` closest to `reference` in weights.

    `networks` is one state_dict, or many stacked on a first axis of every tensor; so may be
    `reference`, for one reference each. `start` is a name in `canon.starts.STARTS` or "auto": anchored,
    and unless that is well founded identity too, and signatures where the two disagree and some group
    has no anchor; the best objective is kept for each network.
    A gain counts when it exceeds `tolerance` x |A| |B|. With a `generator` the order of the groups is
    random in every sweep, without one it is the spec's.

    Raises `InputError` where states do not fit the spec or hold NaN or infinity.
    """
    began = time.perf_counter()
    if start != "auto" and start not in STARTS:
        raise InputError(f"start {start!r} is not known; choose auto, {', '.join(STARTS)}")
    batch, reference, networks = _stacked(spec, reference, networks)
    count = next(iter(networks.values())).shape[0]
    size = max(1, CHUNK_BYTES // (8 * sum(prod(t.shape[1:]) for t in networks.values())))
    parts = []
    for first in range(0, count, size):
        rows = slice(first, first + size)
        ours = {name: t if len(t) == 1 else t[rows] for name, t in reference.items()}
        theirs = {name: t[rows] for name, t in networks.items()}
        parts.append(_best_of(spec, ours, theirs, start, sweeps, tolerance, generator))
    return _join(spec, parts, batch, time.perf_counter() - began)


def _stacked(spec: PermutationSpec, reference: State, networks: State) -> tuple[bool, State, State]:
    """Is there a networks axis? And both states with one."""
    name, axes = max(spec.axes.items(), key=lambda item: len(item[1]))
    for who, state in (("reference", reference), ("networks", networks)):
        if name in state and state[name].dim() not in (len(axes), len(axes) + 1):
            raise InputError(f"{who}: {name} has {state[name].dim()} axes, the spec knows {len(axes)}")
        extra = name in state and state[name].dim() > len(axes)
        spec.check(state, batch=int(extra))
        for key, tensor in state.items():
            # A sum sees any NaN or infinity; entry by entry only where it may have overflowed.
            if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
                raise InputError(f"{who}: {key} holds NaN or infinity")
    batch = networks[name].dim() > len(axes)
    if not batch:
        networks = {key: tensor[None] for key, tensor in networks.items()}
    if reference[name].dim() == len(axes):
        reference = {key: tensor[None] for key, tensor in reference.items()}
    elif len(reference[name]) != len(networks[name]):
        raise InputError(f"{len(reference[name])} references for {len(networks[name])} networks")
    return batch, reference, networks


@dataclass
class _Ascent:
    """Where coordinate ascent from one start ended, for the networks of one chunk."""

    permutation: dict[str, Tensor]
    before: Tensor
    after: Tensor
    gains: dict[str, Tensor]
    sweeps: int
    converged: Tensor


def _best_of(
    spec: PermutationSpec,
    reference: State,
    networks: State,
    start: str,
    sweeps: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> _Ascent:
    def ascend(name: str) -> tuple[_Ascent, float]:
        count = next(iter(networks.values())).shape[0]
        scores = Scores(spec, reference, networks, perm.identity(spec, (count,)))
        before = scores.objective()
        sure = STARTS[name](scores)
        return _ascend(scores, before, sweeps, tolerance, generator), sure

    best, sure = ascend("anchored" if start == "auto" else start)
    if start != "auto" or sure >= SURE:
        return best
    other = ascend("identity")[0]
    agree = torch.isclose(best.after, other.after, rtol=1e-9).all()
    best = _keep_better(best, other)
    # Sorted weights say little about trained networks: only where nothing at all was anchored.
    return best if agree or sure > 0 else _keep_better(best, ascend("signatures")[0])


def _ascend(
    scores: Scores, before: Tensor, sweeps: int, tolerance: float, generator: torch.Generator | None
) -> _Ascent:
    least = tolerance * scores.scale
    order, gains = list(scores.families), {name: torch.zeros_like(before) for name in scores.spec.groups}
    done = 0
    while done < sweeps and any(len(scores.dirty(family)) for family in order):
        done += 1
        if generator is not None:
            order = [order[i] for i in torch.randperm(len(order), generator=generator)]
        for family in order:
            rows = scores.dirty(family)
            if len(rows):
                gains[family.outer][rows] += _step(scores, family, rows, least[rows])
    waiting = [scores.dirty(family) for family in order]
    converged = torch.ones(scores.count, dtype=torch.bool)
    converged[torch.cat([*waiting, torch.zeros(0, dtype=torch.long)])] = False
    return _Ascent(scores.permutation, before, scores.objective(), gains, done, converged)


def _step(scores: Scores, family: Family, rows: Tensor, least: Tensor) -> Tensor:
    """Solve one family for the networks `rows`, accept what gains more than `least`; the gains."""
    grams = scores.grams(family, rows)
    proposal = solve_family(scores.spec, family, grams)
    gain = scores.gain(family, rows, grams, proposal)
    better = gain > least
    scores.accept(family, rows[better], {name: p[better] for name, p in proposal.items()})
    return gain.where(better, 0)


def _keep_better(one: _Ascent, other: _Ascent) -> _Ascent:
    """For each network the better of two; the first where they are equal."""
    better = other.after > one.after

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return b.where(better.reshape(-1, *[1] * (a.dim() - 1)), a)

    return _Ascent(
        {name: pick(p, other.permutation[name]) for name, p in one.permutation.items()},
        one.before,
        pick(one.after, other.after),
        {name: pick(gain, other.gains[name]) for name, gain in one.gains.items()},
        max(one.sweeps, other.sweeps),
        pick(one.converged, other.converged),
    )


def _join(spec: PermutationSpec, parts: list[_Ascent], batch: bool, seconds: float) -> Match:
    permutation = {name: torch.cat([part.permutation[name] for part in parts]) for name in spec.groups}
    before, after = (torch.cat([getattr(part, key) for part in parts]) for key in ("before", "after"))
    still = perm.identity(spec)
    return Match(
        permutation if batch else {name: p[0] for name, p in permutation.items()},
        before if batch else before[0],
        after if batch else after[0],
        max(part.sweeps for part in parts),
        bool(torch.cat([part.converged for part in parts]).all()),
        seconds,
        {name: float(torch.cat([part.gains[name] for part in parts]).mean()) for name in spec.groups},
        {name: float((p != still[name]).double().mean()) for name, p in permutation.items()},
    )
