"""The objective's increase, group by group."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from canon.actions.permutation import Permutation, axis_index, identity, relabel, take
from canon.matching.gram import inner_product
from canon.spec import PermutationSpec
from canon.types import State


def gains_by_group(
    spec: PermutationSpec, reference: State, networks: State, permutation: Permutation
) -> dict[str, Tensor]:
    """The rise of sum <A_T, P B_T> as the groups take their places one after another, outer ones first.

    All tensors and permutations carry a leading axis of networks (1 on a shared reference). Returns gains
    (networks,) that add up to the whole rise, as far as the weights' precision goes. One tensor is moved at
    a time: memory stays at the largest.
    """
    count = next(iter(networks.values())).shape[0]
    now = identity(spec, (count,))
    counted = [n for n, t in networks.items() if n not in spec.statistics and t.is_floating_point()]

    def product(name: str, moved: Tensor) -> Tensor:
        if len(moved) == 1:  # in pieces: a large tensor is not copied as a whole
            return inner_product(reference[name], moved)
        kind = reduce(torch.promote_types, (reference[name].dtype, moved.dtype, torch.float32))
        ours, theirs = reference[name].flatten(1).to(kind), moved.flatten(1).to(kind)
        # one reference for all is one matrix product, at the weights' precision
        together = theirs @ ours[0] if len(ours) == 1 else torch.linalg.vecdot(ours, theirs)
        return together.double().cpu()

    gains = {name: torch.zeros(count, dtype=torch.float64) for name in spec.groups}
    order = sorted(spec.groups, key=lambda name: spec.groups[name].within is not None)
    for name in counted:
        now, theirs, moved_axes = identity(spec, (count,)), networks[name], set[int]()
        value = product(name, theirs)
        for group in order:
            mine = {number for number, axis in enumerate(spec.axes[name]) if group in axis.groups}
            if not mine:
                continue
            now[group] = permutation[group]
            if mine & moved_axes:  # an axis that moves again moves from where it first was
                theirs = relabel(spec, now, name, networks[name], batch=1)
            else:
                for number in mine:
                    theirs = take(theirs, axis_index(spec, spec.axes[name][number], now), 1 + number)
            moved_axes |= mine
            before, value = value, product(name, theirs)
            gains[group] += value - before
    return gains
