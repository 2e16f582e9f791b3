"""A placeholder for unknown structure, used by families where keys and shapes do not determine the
operation.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, handles


@torch.library.custom_op("canon::opaque", mutates_args=())
def opaque(x: Tensor, reason: str) -> Tensor:
    """`x`, as far as its shape goes: in a trace every axis of it stays in place, because of `reason`."""
    return x.clone()


@opaque.register_fake
def _(x: Tensor, reason: str) -> Tensor:
    return torch.empty_like(x)


opaque.register_autograd(lambda context, slope: (slope, None))


@handles("opaque")
def freeze(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.x)
    for axis in axes:
        c.units.freeze_axis(axis, a.reason)
    return axes
