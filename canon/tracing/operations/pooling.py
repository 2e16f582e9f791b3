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


@handles("max_unpool2d", "max_unpool3d")
def unpool(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Entries put back where a pooling found them: numbers count positions of one channel."""
    axes, indices = c.axes(a.self), c.axes(a.indices)
    spatial, why = int(c.name[-2]), c.because("positions of a window")
    for axis, index in zip(axes[-spatial:], indices[-spatial:], strict=True):
        c.units.freeze_axis(axis, why)
        c.units.freeze_axis(index, why)
    for axis, index in zip(axes[:-spatial], indices[:-spatial], strict=True):
        c.units.unify(axis, index, c.because("sizes do not match"))
    return [*axes[:-spatial], *c.fixed(out.shape[-spatial:], "positions of a window")]


@handles("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sample_grid(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Entries read at coordinates, the same for all channels."""
    batch, channels, *positions = c.axes(a.input)
    own, *coordinates = c.axes(a.grid)
    for axis in (*positions, *coordinates):
        c.units.freeze_axis(axis, c.because("positions and coordinates"))
    c.units.unify(batch, own, c.because("sizes do not match"))
    c.still([own])
    return [batch, channels, *c.fixed(out.shape[2:], "positions")]


@handles("im2col")
def windows_as_columns(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """The entries of each window as a column: a channel after the other, each with its positions."""
    *batch, channels, rows, columns = c.axes(a.self)
    why = "positions of a window"
    for axis in (rows, columns):
        c.units.freeze_axis(axis, c.because(why))
    inside = c.fixed([out.shape[-2] // c.units.size(channels)], why)[0]
    return [*batch, c.units.product([channels, inside]), *c.fixed(out.shape[-1:], why)]


@handles("col2im")
def columns_as_windows(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    *batch, rows, columns = c.axes(a.self)
    why = c.because("positions of a window")
    size = c.units.size(rows)
    channels, inside = c.units.split(rows, (out.shape[-3], size // out.shape[-3]), why)
    for axis in (inside, columns):
        c.units.freeze_axis(axis, why)
    return [*batch, channels, *c.fixed(out.shape[-2:], "positions of a window")]


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
