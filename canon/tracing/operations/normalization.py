"""Normalization: removes the scale of its input; its weight and bias start a new one."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, Traced, handles


def _affine(c: Context, axis: Structure, tensors: Sequence[Traced | None]) -> Structure:
    """A normalised axis times a weight plus a bias: the scale before it is gone."""
    c.still([axis])
    given = [c.axes(t)[0] for t in tensors if t is not None]
    for other in given:
        c.units.unify(axis, other, c.because("sizes do not match"))
        c.units.equate(given[0], other)
    return given[0] if tensors[0] is not None else axis


@handles(
    "batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
    "instance_norm",
)
def batch_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    for statistic in (getattr(a, "running_mean", None), getattr(a, "running_var", None)):
        if statistic is not None:
            axis = c.axes(statistic)[0]
            c.units.unify(axes[1], axis, c.because("sizes do not match"))
            c.still([axis])
            c.statistics.add(id(statistic.value))
    c.still(axes)
    axes[1] = _affine(c, axes[1], (a.weight, a.bias))
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


@handles("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    rank = len(a.normalized_shape)
    over = range(len(axes) - rank, len(axes))
    c.still(axes)
    c.mix(axes, list(over))
    given = [c.axes(t) for t in (a.weight, getattr(a, "bias", None)) if t is not None]
    for affine in given:
        for place in range(-rank, 0):
            c.units.unify(axes[place], affine[place], c.because("sizes do not match"))
            c.units.equate(given[0][place], affine[place])
    if given and a.weight is not None:
        axes[-rank:] = given[0]
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


@handles("_weight_norm", "_weight_norm_interface")
def weight_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """g v / |v|, the norm over all axes but `dim`: whatever order these have."""
    axes, gains = c.axes(a.v), c.axes(a.g)
    c.still(axes)
    if a.dim >= 0 and len(gains) == len(axes):
        c.units.unify(axes[a.dim], gains[a.dim], c.because("sizes do not match"))
        axes[a.dim] = gains[a.dim]
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


@handles("group_norm", "native_group_norm")
def group_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    groups = a.num_groups if hasattr(a, "num_groups") else a.group
    c.units.split(
        axes[1], (groups, c.units.size(axes[1]) // groups), c.because(f"{groups} groups do not divide it")
    )
    c.still(axes)
    axes[1] = _affine(c, axes[1], (a.weight, a.bias))
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]
