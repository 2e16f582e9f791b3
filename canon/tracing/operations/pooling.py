"""Pooling and resizing: leading axes are preserved, trailing axes are positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, handles, marked


@handles(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "_upsample_nearest_exact2d",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "max_pool1d_with_indices",
)
def pool(c: Context, a: SimpleNamespace, out: Any) -> Any:
    given = a.self if hasattr(a, "self") else a.input
    axes = c.axes(given)
    spatial = int(next(ch for ch in c.name if ch.isdigit()))
    first = out if isinstance(out, Tensor) else out[0]
    for axis in axes[-spatial:]:
        c.units.freeze_axis(axis, c.because("positions of a window"))
    if "max" in c.name:
        marked(c, axes, c.units.positive)
    result = [*axes[:-spatial], *c.fixed(first.shape[-spatial:], "positions of a window")]
    return result if isinstance(out, Tensor) else [result for _ in out]


@handles("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    *batch, channels, rows, columns = axes
    why = c.because("channels become positions")
    if hasattr(a, "upscale_factor"):
        kept, *moved = c.units.split(
            channels, (c.units.size(channels) // a.upscale_factor**2, a.upscale_factor, a.upscale_factor), why
        )
    else:
        moved = []
        kept = c.units.product([channels, c.units.fixed(a.downscale_factor**2, why)])
    for axis in (*moved, rows, columns):
        c.units.freeze_axis(axis, why)
    return [*batch, kept, *c.fixed(out.shape[-2:], "positions")]
