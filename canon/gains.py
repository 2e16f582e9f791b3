"""Which group brought how much: the objective's rise, group by group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from canon.permutation import Permutation, identity, relabel
from canon.spec import PermutationSpec

State = Mapping[str, Tensor]


def gains_by_group(
    spec: PermutationSpec, reference: State, networks: State, permutation: Permutation
) -> dict[str, Tensor]:
    """The rise of sum <A_T, P B_T> as the groups take their places one after another, outer ones first.

    All tensors and permutations carry a leading axis of networks (1 on a shared reference). Returns gains
    (networks,) that add up to the whole rise, as far as the weights' precision goes. Each tensor is read
    once more for every group that acts on it.
    """
    count = next(iter(networks.values())).shape[0]
    now = identity(spec, (count,))
    counted = [n for n, t in networks.items() if n not in spec.statistics and t.is_floating_point()]

    def product(name: str, moved: Tensor) -> Tensor:
        kind = torch.promote_types(reference[name].dtype, moved.dtype)
        ours, theirs = reference[name].flatten(1).to(kind), moved.flatten(1).to(kind)
        # one reference for all is one matrix product, at the weights' precision
        together = theirs @ ours[0] if len(ours) == 1 else torch.linalg.vecdot(ours, theirs)
        return together.double()

    value: dict[str, Tensor] = {}
    gains = {name: torch.zeros(count, dtype=torch.float64) for name in spec.groups}
    for group in sorted(spec.groups, key=lambda name: spec.groups[name].within is not None):
        touched = {tensor for tensor, _ in spec.uses(group)} & set(counted)
        before = {name: value[name] if name in value else product(name, networks[name]) for name in touched}
        now[group] = permutation[group]
        for name in touched:
            value[name] = product(name, relabel(spec, now, name, networks[name], batch=1))
            gains[group] += value[name] - before[name]
    return gains
