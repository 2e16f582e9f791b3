r"""Git Re-Basin's weight matching: coordinate ascent on sum_T <A_T, P B_T>, one family of groups at a time.

Each step is an exact assignment given the other groups; only gains are accepted, in float64. Many
networks are matched to one reference together: the Gram products are batched, and a network drops out
of the sweeps as soon as none of its families has anything new to look at.

Ainsworth et al. 2023, arXiv:2209.04836.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.actions.joined_axes import joined
from canon.errors import InputError
from canon.io.dtypes import all_finite, is_mask
from canon.matching.gram import Family
from canon.matching.gram_cache import Scores
from canon.matching.head_spectra import match_heads
from canon.matching.initialization import STARTS
from canon.matching.nested_assignment import solve_families
from canon.matching.objective_gains import gains_by_group
from canon.matching.result import Match
from canon.spec import PermutationSpec
from canon.types import State

# Networks that are matched together: enough to fill the products, few enough to stay near the cores.
CHUNK_BYTES = 2**25
# Where anchors decide every group by at least this share of its weights, one start is enough.
SURE = 0.5
# Sweeps from the identity after which the start that lies behind gives up.
RACE = 1
# Entries of the scores of families that are solved side by side, at most: each takes twenty bytes an entry.
TOGETHER = 2**25
# Entries of a network up to which Frank-Wolfe is tried too: it takes several times as long.
SMALL = 2**20


def match_weights(
    spec: PermutationSpec,
    reference: State,
    networks: State,
    *,
    start: str = "auto",
    sweeps: int = 100,
    tolerance: float = 1e-12,
    generator: torch.Generator | None = None,
    heads: str = "pairs",
) -> Match:
    """The permutation that brings networks closest to a reference in weights.

    Git Re-Basin's weight matching by linear assignment, group by group (Ainsworth et al. 2023, arXiv:2209.04836,
    algorithm 1). Within attention, heads are matched first and then units within heads.

    Args:
        spec: the symmetries of the architecture.
        reference: a state dict, or many stacked on a first axis of every tensor, one for each network.
        networks: a state dict, or many stacked on a first axis of every tensor.
        start: a name in `canon.matching.initialization.STARTS`, or "auto": "anchored", and others beside it unless
            that is well founded. Small networks also start from the identity and from the end of Frank-Wolfe, and
            the best objective is kept; large ones race "anchored" against the identity for a sweep, unless no group
            moves once all of its weights are looked at. Where a group has no anchor the identity is run to the end
            too, and signatures as well if the two disagree.
        sweeps: the most passes over all groups.
        tolerance: a gain counts when it exceeds `tolerance` x |A| |B|.
        generator: the order of the groups is random in every sweep; without one it is that of the spec.
        heads: how groups with others within them (heads of attention) are matched: "pairs" compares every pair in
            full under the present arrangement, "spectra" takes the order that their singular values give and keeps
            it (TransFusion, Rinaldi et al. 2025, arXiv:2505.22697).

    Returns:
        The match; objectives are inner products of weights, in float64.

    Raises:
        InputError: states do not fit the spec, or hold NaN or infinity.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> match = canon.match_weights(spec, a.state_dict(), b.state_dict())
        >>> bool(match.objective >= match.objective_before)
        True
    """
    began = time.perf_counter()
    if start != "auto" and start not in STARTS:
        raise InputError(f"start {start!r} is not known; choose auto, {', '.join(STARTS)}")
    if heads not in ("pairs", "spectra"):
        raise InputError(f"heads {heads!r} is not known; choose pairs or spectra")
    if heads == "spectra" and start == "frank_wolfe":
        raise InputError("Frank-Wolfe moves heads too, which spectra hold in place; choose another start")
    batch, reference, networks = _stacked(spec, reference, networks)
    spec, (reference, networks) = joined(spec, reference, networks, batch=1)
    count = next(iter(networks.values())).shape[0]
    size = max(1, CHUNK_BYTES // (8 * sum(prod(t.shape[1:]) for t in networks.values())))
    parts, gains = [], []
    for first in range(0, count, size):
        rows = slice(first, first + size)
        ours = {name: t if len(t) == 1 else t[rows] for name, t in reference.items()}
        theirs = {name: t[rows] for name, t in networks.items()}
        held = match_heads(spec, ours, theirs) if heads == "spectra" else {}
        parts.append(_best_of(spec, ours, theirs, start, sweeps, tolerance, generator, held))
        gains.append(gains_by_group(spec, ours, theirs, parts[-1].permutation))
    return _join(spec, parts, gains, batch, time.perf_counter() - began)


def _stacked(spec: PermutationSpec, reference: State, networks: State) -> tuple[bool, State, State]:
    """Is there a networks axis? And both states with one."""
    name, axes = max(spec.axes.items(), key=lambda item: len(item[1]))
    for who, state in (("reference", reference), ("networks", networks)):
        if name in state and state[name].dim() not in (len(axes), len(axes) + 1):
            raise InputError(f"{who}: {name} has {state[name].dim()} axes, the spec knows {len(axes)}")
        extra = name in state and state[name].dim() > len(axes)
        spec.check(state, batch=int(extra))
        for key, tensor in state.items():
            if key in spec.statistics and is_mask(tensor):
                continue
            if tensor.is_floating_point() and not all_finite(tensor):
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
    """The end point of coordinate ascent from one start, for one chunk of networks."""

    permutation: dict[str, Tensor]
    before: Tensor
    after: Tensor
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
    held: perm.Permutation,
) -> _Ascent:
    count = next(iter(networks.values())).shape[0]
    before = Scores(spec, reference, networks, perm.identity(spec, (count,))).objective()

    def begin(name: str) -> tuple[_Climb, float]:
        scores = Scores(spec, reference, networks, perm.identity(spec, (count,)), held)
        sure = STARTS[name](scores)
        return _Climb(scores, before, tolerance, generator), sure

    first, sure = begin("anchored" if start == "auto" else start)
    if start != "auto" or sure >= SURE:
        return first.climb(sweeps).ended()
    if sure == 0:
        one, other = first.climb(sweeps).ended(), begin("identity")[0].climb(sweeps).ended()
        best = _keep_better(one, other)
        # Sorted weights are weak evidence for trained networks: used only where no unit was anchored.
        if torch.isclose(one.after, other.after, rtol=1e-9).all():
            return best
        return _keep_better(best, begin("signatures")[0].climb(sweeps).ended())
    if sum(prod(tensor.shape[1:]) for tensor in networks.values()) <= SMALL:
        others = (begin(name)[0] for name in ("identity", *([] if held else ["frank_wolfe"])))
        return reduce(_keep_better, (climb.climb(sweeps).ended() for climb in (first, *others)))
    if first.settled():
        return first.ended()
    # `anchored` counts as its own first sweep.
    second = begin("identity")[0].climb(min(RACE, sweeps))
    behind = first.objective() < second.objective()
    first.give_up(behind)
    second.give_up(~behind)
    return _keep_better(first.climb(sweeps).ended(), second.climb(sweeps).ended())


class _Climb:
    """Coordinate ascent for the networks of one chunk, from where `scores` stands."""

    def __init__(
        self, scores: Scores, before: Tensor, tolerance: float, generator: torch.Generator | None
    ) -> None:
        self.scores, self.before, self.generator = scores, before, generator
        self.least, self.order, self.done = tolerance * scores.scale, list(scores.families), 0
        self._objective: Tensor | None = None

    def climb(self, sweeps: int) -> _Climb:
        """Continue until no group gains, or for `sweeps` sweeps in total."""
        scores = self.scores
        while self.done < sweeps and any(len(scores.dirty(family)) for family in self.order):
            self.done, self._objective = self.done + 1, None
            if self.generator is not None:
                order = torch.randperm(len(self.order), generator=self.generator)
                self.order = [self.order[i] for i in order]
            for wave in _waves(scores, self.order):
                _step(scores, wave, self.least)
        return self

    def settled(self) -> bool:
        """Does nothing gain, all weights looked at? Goes on to the first family that does."""
        for family in self.order:
            if _step(self.scores, [family], self.least):
                return False
        self.done = 1
        return True

    def objective(self) -> Tensor:
        """The objective (networks,), computed once per state."""
        if self._objective is None:
            self._objective = self.scores.objective()
        return self._objective

    def give_up(self, losing: Tensor) -> None:
        """Leave the networks `losing` where they are."""
        self.scores.rest(losing)

    def ended(self) -> _Ascent:
        scores = self.scores
        waiting = [scores.dirty(family) for family in self.order]
        converged = torch.ones(scores.count, dtype=torch.bool)
        converged[torch.cat([*waiting, torch.zeros(0, dtype=torch.long)])] = False
        return _Ascent(scores.permutation, self.before, self.objective(), self.done, converged)


def _waves(scores: Scores, order: list[Family]) -> Iterator[list[Family]]:
    """The families in parts that share no tensor, none before one that it shares a tensor with.

    So those of a wave, solved side by side, come out as they would one after another.
    """
    # Many networks are solved in parallel already.
    size = torch.get_num_threads() if scores.count == 1 else 1
    waiting = list(order)
    while waiting:
        wave: list[Family] = []
        passed, room = set[str](), TOGETHER
        for family in waiting:
            entries = scores.entries(family)
            if len(wave) < size and (not wave or entries <= room) and not scores.tensors_of(family) & passed:
                wave.append(family)
                room -= entries
            passed |= scores.tensors_of(family)
        yield wave
        waiting = [family for family in waiting if family not in wave]


def _step(scores: Scores, wave: list[Family], least: Tensor) -> bool:
    """Solve a wave for the networks whose scores changed and accept gains above `least`; returns whether
    there was any.
    """
    asked = [(family, rows) for family in wave if len(rows := scores.dirty(family))]
    grams = [scores.grams(family, rows) for family, rows in asked]
    problems = [(f, gram, scores.outer(f, rows)) for (f, rows), gram in zip(asked, grams, strict=True)]
    proposals = solve_families(scores.spec, problems)
    gained = False
    for (family, rows), gram, proposal in zip(asked, grams, proposals, strict=True):
        better = scores.gain(family, rows, gram, proposal) > least[rows]
        gained = gained or bool(better.any())
        scores.accept(family, rows[better], {name: p[better] for name, p in proposal.items()})
    return gained


def _keep_better(one: _Ascent, other: _Ascent) -> _Ascent:
    """For each network the better of two; the first where they are equal."""
    better = other.after > one.after

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return b.where(better.reshape(-1, *[1] * (a.dim() - 1)), a)

    return _Ascent(
        {name: pick(p, other.permutation[name]) for name, p in one.permutation.items()},
        one.before,
        pick(one.after, other.after),
        max(one.sweeps, other.sweeps),
        pick(one.converged, other.converged),
    )


def _join(
    spec: PermutationSpec, parts: list[_Ascent], gains: list[dict[str, Tensor]], batch: bool, seconds: float
) -> Match:
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
        {name: float(torch.cat([part[name] for part in gains]).mean()) for name in spec.groups},
        {name: float((p != still[name]).double().mean()) for name, p in permutation.items()},
    )
