r"""Sign symmetry: negate a unit of an odd activation together with its outgoing weights.

Without a reference the signs are fixed as a gauge is: units in their order, each is given the sign that
makes the first entry between it and what is fixed already (inputs, outputs, earlier units) positive. A
unit that no such entry reaches begins again; its sign is then arbitrary. Every choice of signs of
one network leads to the same, and nothing is added up, so it is the same bit for bit.

Towards a reference a unit takes the sign of its inner product with the reference's unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from canon.actions import permutation as perm
from canon.actions.scaling import multiplier, places
from canon.spec import PermutationSpec
from canon.types import State

Signs = dict[str, Tensor]


def sign_groups(spec: PermutationSpec) -> list[str]:
    """Groups whose signs canon chooses: not those that meet two others in one tensor (bilinear layers)."""
    signed = {name for name, group in spec.groups.items() if group.scale == "sign"}
    crowded = {
        group
        for axes in spec.axes.values()
        if sum(bool(axis.groups & signed) for axis in axes) > 2
        for axis in axes
        for group in axis.groups
    }
    return [name for name in spec.groups if name in signed - crowded]


def signed_tensors(spec: PermutationSpec) -> set[str]:
    """Tensors in which some entry changes its sign with a unit."""
    groups = set(sign_groups(spec))
    return {
        name
        for name, axes in spec.axes.items()
        for axis in axes
        for segment in axis.segments
        for factor in segment
        if factor.group in groups and factor.power % 2
    }


def fix_signs(spec: PermutationSpec, state: State) -> Signs:
    """The unit signs that bring a state to canonical signs, with its units in their present order."""
    groups = sign_groups(spec)
    signs = {name: torch.zeros(spec.shape(name), dtype=torch.float64) for name in groups}
    touched = signed_tensors(spec)
    entries = {name: state[name].sign().to(torch.int8).cpu() for name in spec.axes if name in touched}
    while any((sign == 0).any() for sign in signs.values()):
        settled = [_settle(spec, entries, signs, name) for name in groups]
        if not any(settled):
            _begin(signs)
    return signs


def _settle(spec: PermutationSpec, entries: State, signs: Signs, group: str) -> bool:
    """Fix the sign of each unit of a group that has an entry whose other signs are fixed; returns whether
    there was any.
    """
    unknown = signs[group].flatten() == 0
    found = torch.zeros(unknown.shape, dtype=torch.float64)
    for name, tensor in entries.items():
        for number, axis in enumerate(spec.axes[name]):
            if group not in axis.groups:
                continue
            known = multiplier(spec, spec.axes[name], signs, skip=number)
            # An open sign is 0, which to the power -1 is infinite.
            others = (tensor * known.nan_to_num(0.0, 0.0, 0.0)).movedim(number, 0)
            rows = others.reshape(len(others), -1)
            for power, positions, units in places(spec, axis, group):
                if power % 2:
                    order = units.argsort(stable=True)
                    first = _first(rows[positions[order]].reshape(len(unknown), -1))
                    found = found.where((found != 0) | ~unknown, first)
    signs[group] += found.reshape(signs[group].shape)
    return bool(found.any())


def _first(rows: Tensor) -> Tensor:
    """The first entry of each row that is not zero, or zero."""
    return rows.gather(1, (rows != 0).to(torch.uint8).argmax(1, keepdim=True))[:, 0]


def _begin(signs: Signs) -> None:
    """Fix the first undetermined unit's sign to +1."""
    name = next(name for name, sign in signs.items() if (sign == 0).any())
    flat = signs[name].view(-1)
    flat[int((flat == 0).nonzero()[0])] = 1.0


def signs_towards(spec: PermutationSpec, reference: State, networks: State, start: Signs) -> Signs:
    """Signs of the units of stacked networks that raise the inner product with the reference, unit by unit.

    Coordinate ascent from `start`; every tensor has a leading networks axis (the reference's may be 1).
    """
    touched = signed_tensors(spec) - spec.statistics
    products = {
        name: (reference[name] * networks[name]).double().cpu()
        for name in networks
        if name in touched and networks[name].is_floating_point()
    }
    signs = {name: sign.clone() for name, sign in start.items()}
    changed = True
    while changed:
        changed = False
        for group in signs:
            changed = _flip(spec, products, signs, group) or changed
    return signs


def _flip(spec: PermutationSpec, products: Mapping[str, Tensor], signs: Signs, group: str) -> bool:
    """Flip the units whose inner product is negative; one at a time where they read one another."""
    signed = {name: p * multiplier(spec, spec.axes[name], signs) for name, p in products.items()}
    flat = signs[group].flatten(1)
    gain, alone = torch.zeros_like(flat), True
    for name, product in signed.items():
        mine = [n for n, axis in enumerate(spec.axes[name]) if group in axis.groups]
        alone = alone and len(mine) < 2
        for number in mine:
            rows = product.movedim(1 + number, 1)
            along = rows.reshape(*rows.shape[:2], -1).sum(2)
            for power, positions, units in places(spec, spec.axes[name][number], group):
                if power % 2:
                    gain.index_add_(1, units, along[:, positions])
    size = gain.abs().amax(1, keepdim=True)
    flips = gain < -1e-12 * size
    if not alone:
        flips &= gain == gain.amin(1, keepdim=True)
        flips[
            _total(spec, products, signs | {group: _turned(signs[group], flips)})
            <= _total(spec, products, signs)
        ] = False
    signs[group] = _turned(signs[group], flips)
    return bool(flips.any())


def _turned(sign: Tensor, flips: Tensor) -> Tensor:
    return sign * (1.0 - 2.0 * flips.reshape(sign.shape))


def _total(spec: PermutationSpec, products: Mapping[str, Tensor], signs: Signs) -> Tensor:
    return sum(
        ((p * multiplier(spec, spec.axes[n], signs)).flatten(1).sum(1) for n, p in products.items()),
        torch.zeros(1, dtype=torch.float64),
    )


def of_old_units(spec: PermutationSpec, signs: Signs, permutation: perm.Permutation) -> Signs:
    """Signs of units in their new order, as those of the units that the permutation takes there."""
    return perm.compose(spec, signs, perm.invert(spec, permutation))
