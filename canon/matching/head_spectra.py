r"""Heads of attention matched by their spectra, as TransFusion does.

The singular values of a head's projection do not change when anything is relabelled: neither the channels within
the head nor the units of the residual stream that it reads. So heads are compared before anything else is known:

    d(h, h') = sum over projections W of || sigma(W_h) - sigma(W_h') ||_2

and the assignment of heads with the least total distance is taken. Channels within each pair of heads are matched
afterwards, together with all other groups. Every matrix that holds heads counts, the output projection too; the paper
takes those of query, key and value.

Rinaldi et al. 2025, arXiv:2505.22697. Where heads have equal spectra, as after an orthogonal initialisation, the
distance says nothing; `canon.matching.nested_assignment` compares all pairs of heads in full instead.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from canon.matching.gram import AxisOccurrence, Family, families, uses
from canon.matching.linear_assignment import solve_many
from canon.spec import PermutationSpec
from canon.types import State


def match_heads(spec: PermutationSpec, reference: State, networks: State) -> dict[str, Tensor]:
    """For each group with others within it, the head of B at each place: (networks, heads).

    `reference` holds tensors (1, ...) or (networks, ...), `networks` holds (networks, ...).
    """
    found = {}
    for family in families(spec):
        distance = _distance(spec, family, reference, networks) if family.inners else None
        if distance is not None:
            found[family.outer] = solve_many(-distance).cpu()
    return found


def _distance(spec: PermutationSpec, family: Family, reference: State, networks: State) -> Tensor | None:
    """(networks, heads of A, heads of B), or None where no matrix holds heads."""
    total = None
    for use in uses(spec, family):
        ours, theirs = (_spectra(use, state[use.tensor]) for state in (reference, networks))
        if ours is not None and theirs is not None:
            apart = torch.cdist(ours.expand(len(theirs), *ours.shape[1:]), theirs)
            total = apart if total is None else total + apart
    return total


def _spectra(use: AxisOccurrence, tensor: Tensor) -> Tensor | None:
    """Singular values of each head's matrix, (networks, heads, values) in float64; None for vectors."""
    if not tensor.is_floating_point():
        return None
    dim = 1 + use.axis
    sizes = [factor.size for factor in use.segment]
    opened = tensor.narrow(dim, use.start, prod(sizes)).unflatten(dim, sizes)
    place = next(n for n, factor in enumerate(use.segment) if factor.group == use.family.outer)
    within = [dim + n for n in range(len(sizes)) if n != place]
    outside = [n for n in range(1, opened.dim()) if n != dim + place and n not in within]
    rows, columns = (prod(opened.shape[n] for n in part) for part in (within, outside))
    if min(rows, columns) < 2:
        return None
    heads = opened.permute(0, dim + place, *within, *outside)
    return torch.linalg.svdvals(heads.reshape(*heads.shape[:2], rows, columns).double())
