r"""Frank-Wolfe over doubly stochastic matrices: all groups move at once, from the barycentre.

Permutations are the corners of a polytope whose centre says nothing about which unit is which. From
there every step goes towards the corner X that the gradient likes best (one assignment for each family
of groups), P <- P + t (X - P), as far as the objective rises; so no group has to trust where another
one stands before that is known. At the end the nearest corner is taken.

Along the step the objective is a quadratic in t, fixed by its value and slope at P and its value at the
corner (an approximation where a tensor has three relabelled axes or more).

Crisostomi et al. 2024, arXiv:2405.17897; Vogelstein et al. 2015, doi:10.1371/journal.pone.0121002.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from canon.actions.permutation import Permutation, axis_index
from canon.matching.gram import AxisOccurrence, Family, Grams, gram, inner_product
from canon.matching.gram_cache import Scores
from canon.matching.nested_assignment import solve_family
from canon.spec import Axis, Factor

STEPS = 100
# Stop when no corner promises more than this share of |A| |B|.
GAP = 1e-7

Soft = dict[Family, Grams]


def frank_wolfe(scores: Scores) -> float:
    """Start from where Frank-Wolfe ends."""
    everyone = torch.arange(scores.count)
    live = [family for family in scores.families if scores.uses[family]]
    if not live:  # nothing can move
        return 0.0
    soft = {family: _barycentre(scores, family) for family in live}
    value = _value(scores, soft)
    for _ in range(STEPS):
        slopes = {family: _gradient(scores, family, soft) for family in live}
        corner = {family: solve_family(scores.spec, family, slopes[family]) for family in live}
        target = {family: _hard(scores, family, soft[family], corner[family]) for family in live}
        slope = torch.stack(
            [
                (slopes[family][names] * (target[family][names] - p)).sum((1, 2))
                for family in live
                for names, p in soft[family].items()
            ]
        ).sum(0)
        moved = {name: p for found in corner.values() for name, p in found.items()}
        bend = scores.objective(everyone, moved) - value - slope
        # value + slope t + bend t^2 is greatest at -slope / (2 bend), or at the corner.
        step = torch.where(bend < 0, -slope / (2 * bend), torch.ones_like(slope)).clamp(0, 1)
        step = step.where(slope > GAP * scores.scale, 0)
        if not step.any():
            break
        value = value + slope * step + bend * step.square()
        for family in live:
            for names, p in soft[family].items():
                p += step[:, None, None] * (target[family][names] - p)
    for family in live:
        scores.accept(family, everyone, solve_family(scores.spec, family, soft[family]))
    return 0.0


def _barycentre(scores: Scores, family: Family) -> Grams:
    """Every unit as likely in one place as in another, for each combination of nested groups in use."""
    soft: Grams = {}
    for chosen in scores.uses[family].values():
        for use in chosen:
            names = (family.outer, *use.signature)
            units = prod(scores.spec.groups[name].size for name in names)
            soft[use.signature] = torch.full((scores.count, units, units), 1 / units, dtype=torch.float64)
    return soft


def _hard(scores: Scores, family: Family, soft: Grams, permutation: Permutation) -> Grams:
    """A permutation as matrices of the same shapes: row i has its 1 at p[i]."""
    hard: Grams = {}
    for names, p in soft.items():
        segment = tuple(Factor(scores.spec.groups[name].size, name) for name in (family.outer, *names))
        index = axis_index(scores.spec, Axis((segment,)), permutation)
        hard[names] = torch.zeros_like(p).scatter_(-1, index[..., None], 1.0)
    return hard


def _gradient(scores: Scores, family: Family, soft: Soft) -> Grams:
    total: Grams = {}
    for chosen in scores.uses[family].values():
        for use in chosen:
            axes = scores.spec.axes[use.tensor]
            theirs = _mix(scores, use.tensor, soft, use)
            found = gram(
                use.units(axes, scores.reference[use.tensor]).flatten(2).double(),
                use.units(axes, theirs).flatten(2),
            )
            total[use.signature] = total[use.signature] + found if use.signature in total else found
    return {names: found.cpu() for names, found in total.items()}


def _value(scores: Scores, soft: Soft) -> Tensor:
    parts = [inner_product(scores.reference[name], _mix(scores, name, soft)) for name in scores.tensors]
    return torch.stack(parts).sum(0)


def _mix(scores: Scores, name: str, soft: Soft, use: AxisOccurrence | None = None) -> Tensor:
    """B's tensor under the soft permutations; the family and axis of `use` are left as they are."""
    mixed = scores.networks[name].double()
    family_of = {family.outer: family for family in soft}
    for number, axis in enumerate(scores.spec.axes[name]):
        start, parts = 0, []
        for segment in axis.segments:
            length = prod(factor.size for factor in segment)
            part = mixed.narrow(1 + number, start, length)
            for factor in segment:
                family = family_of.get(factor.group or "")
                held = use is not None and use.axis == number and family == use.family
                if family is not None and not held:
                    part = _mix_segment(part, 1 + number, segment, family, soft[family])
            parts.append(part)
            start += length
        mixed = torch.cat(parts, dim=1 + number) if axis.groups else mixed
    return mixed


def _mix_segment(
    tensor: Tensor, dim: int, segment: tuple[Factor, ...], family: Family, soft: Grams
) -> Tensor:
    place = {factor.group: dim + number for number, factor in enumerate(segment)}
    names = tuple(name for name in family.inners if name in place)
    own = [place[name] for name in (family.outer, *names)]
    front = list(range(1, 1 + len(own)))
    opened = tensor.unflatten(dim, [factor.size for factor in segment]).movedim(own, front)
    rows = opened.flatten(1, len(own))
    mixed = soft[names].to(tensor.device) @ rows.reshape(*rows.shape[:2], -1)
    return mixed.reshape(opened.shape).movedim(front, own).flatten(dim, dim + len(segment) - 1)
