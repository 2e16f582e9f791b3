r"""Scale symmetry: multiply a ReLU unit's inputs by s > 0 and divide its outgoing weights by s.

`balance` goes to the one member of that orbit with the smallest sum of squares. With all other units
held, unit u has incoming energy I_u s^2 and outgoing energy O_u / s^2, least at s = (O_u / I_u)^(1/4);
sweeping over the groups converges to the unique minimum. A unit with no incoming or no outgoing
weight has none, and stays.

Stock et al. 2019, arXiv:1902.10416.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from canon.actions.joined_axes import axes_and_tensor, joined, part
from canon.errors import InputError
from canon.spec import Axis, Factor, PermutationSpec
from canon.types import State

# Sweeps after which balancing ends, and the relative change of scales below which it has converged.
SWEEPS, TOLERANCE = 1000, 1e-12


def apply_scale(
    spec: PermutationSpec, scales: Mapping[str, Tensor], state: State, stacked: bool = False
) -> dict[str, Tensor]:
    """Multiply every unit's entries by its scale to the power that the spec gives; the function is kept.

    Args:
        spec: the symmetries of the architecture.
        scales: for each group a tensor of `spec.shape(group)`, with a leading axis of networks where `stacked`.
        state: a state dict of the architecture.
        stacked: every tensor has a first axis of networks.

    Returns:
        The scaled state dict.

    Raises:
        InputError: keys or shapes do not fit the spec.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> name = next(iter(spec.groups))
        >>> scaled = canon.apply_scale(spec, {name: torch.full((8,), 2.0)}, net.state_dict())
        >>> canon.equivalent(scaled, net).same
        True
    """
    spec.check(state, batch=int(stacked))
    return apply_scale_unchecked(spec, scales, state)


def scaled(spec: PermutationSpec, scales: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """`apply_scale_unchecked` to a state that is only read: tensors that no scale multiplies are those of `state`."""
    return {
        name: scale_one(spec, scales, name, tensor) if is_scaled(spec, scales, name) else tensor
        for name, tensor in state.items()
    }


def apply_scale_unchecked(
    spec: PermutationSpec, scales: Mapping[str, Tensor], state: State
) -> dict[str, Tensor]:
    """`apply_scale` to a state that was checked against the spec: no tensor is one of `state`."""
    found = scaled(spec, scales, state)
    return {
        name: tensor if is_scaled(spec, scales, name) else tensor.clone() for name, tensor in found.items()
    }


def is_scaled(spec: PermutationSpec, scales: Mapping[str, Tensor], name: str) -> bool:
    """Whether any of the scales multiplies entries of the tensor `name`."""
    return any(group in scales for axis in spec.axes[name] for group in axis.groups)


def scale_one(spec: PermutationSpec, scales: Mapping[str, Tensor], name: str, tensor: Tensor) -> Tensor:
    """One tensor as `apply_scale` scales it: a copy."""
    if not tensor.is_floating_point():
        return tensor.clone()
    precision = torch.promote_types(tensor.dtype, torch.float32)
    count = tensor.dim() - len(spec.axes[name])  # of leading axes
    axes, laid = axes_and_tensor(spec, name, tensor, count)
    factor = multiplier(spec, axes, scales).to(tensor.device, precision)
    # + 0.0: a sign would make -0.0 of zero, other bits for the same network.
    scaled = (laid * factor).add_(0.0).to(tensor.dtype)
    return part(spec, name, scaled, count).contiguous() if name in spec.joins else scaled


def balance(
    spec: PermutationSpec, state: State, *, stacked: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`minimal_scales`, and the state so scaled."""
    scales = minimal_scales(spec, state, stacked=stacked)
    return scales, apply_scale_unchecked(spec, scales, state)


def minimal_scales(spec: PermutationSpec, state: State, *, stacked: bool = False) -> dict[str, Tensor]:
    """The L2-minimal scales of every group with positive scale.

    Sweeps until no scale changes by more than `TOLERANCE`. Statistics are scaled with their
    units and do not count as energy. The state was checked against the spec. Raises `InputError` for a power other
    than -1, 0, 1 in a weight.
    """
    groups = [name for name, group in spec.groups.items() if group.scale == "positive"]
    lead = next(iter(state.values())).shape[:1] if stacked else ()
    scales = {name: torch.ones(*lead, *spec.shape(name), dtype=torch.float64) for name in groups}
    flat, (laid,) = joined(spec, state, batch=int(stacked))
    energies = [energy for name in laid for energy in _energies(flat, name, laid[name], stacked)]
    for _ in range(SWEEPS):
        steps = [_step(flat, energies, scales, name) for name in groups]
        if all(float(step.log().abs().amax()) <= TOLERANCE for step in steps):
            break
    return scales


@dataclass(frozen=True)
class _Energy:
    """Squares of one tensor, summed over the axes that no scale touches (kept as size 1)."""

    axes: tuple[Axis, ...]
    squares: Tensor

    def along(self, spec: PermutationSpec, number: int, scales: Mapping[str, Tensor]) -> Tensor:
        """Energy at every position of axis `number` under `scales`: (*batch, positions)."""
        left, lead = self.squares, self.squares.dim() - len(self.axes)
        for other in reversed(range(len(self.axes))):
            if other != number:
                weight = _along(spec, self.axes[other], scales).square()
                ones = [1] * (left.dim() - lead - 2)
                column = weight.reshape(*weight.shape[:-1], *ones, -1, 1)
                left = (left.movedim(lead + other, -1) @ column).squeeze(-1)
        return left * _along(spec, self.axes[number], scales).square()


def _energies(spec: PermutationSpec, name: str, tensor: Tensor, stacked: bool) -> Iterator[_Energy]:
    axes = spec.axes[name]
    if name in spec.statistics or not tensor.is_floating_point():
        return
    scaled = [_scaled(spec, axis) for axis in axes]
    if any(scaled):
        still = [number + int(stacked) for number, moves in enumerate(scaled) if not moves]
        if still:
            norms = torch.linalg.vector_norm(tensor, dim=still, keepdim=True, dtype=torch.float64)
        else:
            norms = tensor.double()
        squares = norms.square().cpu()
        kept = tuple(axis if moves else Axis.fixed(1) for axis, moves in zip(axes, scaled, strict=True))
        yield _Energy(kept, squares)


def _scaled(spec: PermutationSpec, axis: Axis) -> bool:
    factors = [factor for segment in axis.segments for factor in segment if factor.group is not None]
    powers = {factor.power for factor in factors if spec.groups[str(factor.group)].scale == "positive"}
    if powers - {-1, 0, 1}:
        raise InputError(f"a weight axis scales with powers {sorted(powers)}; balance knows -1, 0 and 1")
    return bool(powers - {0})


def _step(spec: PermutationSpec, energies: list[_Energy], scales: dict[str, Tensor], group: str) -> Tensor:
    """Take one group to its minimum with the others held; the factors by which its scales changed."""
    flat = scales[group].flatten(scales[group].dim() - len(spec.shape(group)))
    flow = {1: torch.zeros_like(flat), -1: torch.zeros_like(flat)}
    twice = False
    for energy in energies:
        mine = [n for n, axis in enumerate(energy.axes) if group in axis.groups]
        if not mine:
            continue
        twice = twice or len(mine) > 1
        for number in mine:
            along = energy.along(spec, number, scales)
            for power, positions, units in places(spec, energy.axes[number], group):
                if power:
                    flow[power].index_add_(-1, units, along[..., positions])
    alive = (flow[1] > 0) & (flow[-1] > 0)
    # The group occurs on two axes of one tensor: damp the step.
    step = torch.where(alive, flow[-1] / flow[1], 1.0).pow(0.125 if twice else 0.25)
    scales[group] = scales[group] * step.reshape(scales[group].shape)
    return step


def multiplier(
    spec: PermutationSpec, axes: tuple[Axis, ...], scales: Mapping[str, Tensor], skip: int | None = None
) -> Tensor:
    """What the scales multiply every entry by, those of axis `skip` left out: broadcasts against the tensor."""
    total = torch.ones([1] * len(axes), dtype=torch.float64)
    for number, axis in enumerate(axes):
        if axis.groups & scales.keys() and number != skip:
            factor, ones = _along(spec, axis, scales), [1] * (len(axes) - 1)
            total = total * factor.reshape(*factor.shape[:-1], *ones[:number], -1, *ones[number:])
    return total


def _along(spec: PermutationSpec, axis: Axis, scales: Mapping[str, Tensor]) -> Tensor:
    """What the scales multiply the positions of one axis by: (*batch, positions), or (positions,)."""
    total = torch.ones(axis.size, dtype=torch.float64)
    for group in sorted(axis.groups & scales.keys()):
        flat = scales[group].flatten(scales[group].dim() - len(spec.shape(group))).double()
        for power, positions, units in places(spec, axis, group):
            factor = flat.new_ones(*flat.shape[:-1], axis.size)
            factor[..., positions] = flat[..., units] ** power
            total = total * factor
    return total


def places(spec: PermutationSpec, axis: Axis, group: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(power, positions on the axis, units of `group` at them), for every factor that is the group's."""
    start = 0
    for segment in axis.segments:
        sizes = tuple(factor.size for factor in segment)
        places = torch.unravel_index(torch.arange(prod(sizes)), sizes)
        for number, factor in enumerate(segment):
            if factor.group == group:
                yield factor.power, start + torch.arange(prod(sizes)), _unit(spec, segment, places, number)
        start += prod(sizes)


def _unit(
    spec: PermutationSpec, segment: tuple[Factor, ...], places: tuple[Tensor, ...], number: int
) -> Tensor:
    """Number of the unit at each place of a segment: within an outer unit, counted after those before it."""
    group = spec.groups[str(segment[number].group)]
    if group.within is None:
        return places[number]
    outer = [factor.group for factor in segment].index(group.within)
    return places[outer] * group.size + places[number]
