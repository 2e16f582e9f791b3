r"""Initializations for coordinate ascent, which from the identity fails on residual networks.

`anchored` begins at what cannot move (inputs, classes), solves the group that the most fixed positions
speak about, counts it as fixed, and goes on outward. A group that nothing fixed speaks about is
recognised by `signatures`: each unit's weights, sorted along every axis that others may reorder.
`frank_wolfe` moves all groups at once, from the point where none has been decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from canon.matching.frank_wolfe import frank_wolfe
from canon.matching.gram import AxisOccurrence, Family, Grams, gram
from canon.matching.gram_cache import Scores
from canon.matching.nested_assignment import solve_families, solve_family

# Sets `scores.permutation` for all networks; says how sure it is, from 0 to 1.
Start = Callable[[Scores], float]


def identity(scores: Scores) -> float:
    """The identity permutation."""
    return 0.0


def anchored(scores: Scores) -> float:
    """Progressive anchoring: solve a group from tensors whose other axes are fixed or already solved.

    As sure as the least share of its entries that any group was solved from.
    """
    least_sure = 1.0
    everyone, known = torch.arange(scores.count), set[str]()
    waiting = [family for family in scores.families if scores.uses[family]]
    while waiting:
        wave = _best_founded(scores, waiting, known)
        least_sure = min(least_sure, _evidence(scores, wave[0], known))
        grams = [_known_grams(scores, family, everyone, known) for family in wave]
        outers = [scores.outer(family, everyone) for family in wave]
        solved = solve_families(scores.spec, list(zip(wave, grams, outers, strict=True)))
        for family, permutation in zip(wave, solved, strict=True):
            scores.accept(family, everyone, permutation)
            known |= family.members
            waiting.remove(family)
    return least_sure


def _best_founded(scores: Scores, waiting: list[Family], known: set[str]) -> list[Family]:
    """The families with most evidence, as many as there are cores, that share no tensor."""
    evidence = [_evidence(scores, family, known) for family in waiting]
    wave: list[Family] = []
    taken: set[str] = set()
    for family, share in zip(waiting, evidence, strict=True):
        if share == max(evidence) and not scores.tensors_of(family) & taken:
            wave.append(family)
            taken |= scores.tensors_of(family)
    return wave[: torch.get_num_threads()]


def _known_grams(scores: Scores, family: Family, everyone: Tensor, known: set[str]) -> Grams:
    settled = [needs for needs in scores.uses[family] if needs <= known]
    return scores.grams(family, everyone, settled) if settled else signature_grams(scores, family)


def signatures(scores: Scores) -> float:
    """Match units by their sorted weights, which do not depend on the order of other groups."""
    everyone = torch.arange(scores.count)
    found = {
        family: solve_family(
            scores.spec, family, signature_grams(scores, family), scores.outer(family, everyone)
        )
        for family in scores.families
        if scores.uses[family]
    }
    for family, permutation in found.items():
        scores.accept(family, everyone, permutation)
    return 0.0


def _anchored_uses(scores: Scores, family: Family, known: set[str]) -> list[AxisOccurrence]:
    return [use for needs, chosen in scores.uses[family].items() if needs <= known for use in chosen]


def _evidence(scores: Scores, family: Family, known: set[str]) -> float:
    """Share of a unit's entries that the anchored tensors hold."""
    anchored = {use.tensor for use in _anchored_uses(scores, family, known)}
    every = scores.tensors_of(family)
    return sum(scores.size(name) for name in anchored) / sum(scores.size(name) for name in every)


def signature_grams(scores: Scores, family: Family) -> Grams:
    """Gram matrices of sorted weights: they do not change when other groups are relabelled."""
    total: Grams = {}
    for chosen in scores.uses[family].values():
        for use in chosen:
            ours, theirs = (_sorted(scores, use, state) for state in (scores.reference, scores.networks))
            part = gram(ours, theirs).cpu()
            total[use.signature] = total[use.signature] + part if use.signature in total else part
    return total


def _sorted(scores: Scores, use: AxisOccurrence, state: Mapping[str, Tensor]) -> Tensor:
    units = use.units(scores.spec.axes[use.tensor], state[use.tensor]).to(scores.precision)
    return units.sort(dim=2).values.flatten(2)


STARTS: dict[str, Start] = {
    "identity": identity,
    "anchored": anchored,
    "signatures": signatures,
    "frank_wolfe": frank_wolfe,
}
