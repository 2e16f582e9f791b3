"""Fourier transforms: positions are mixed, other axes are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, handles, places


@handles("_fft_r2c", "_fft_c2c", "_fft_c2r")
def transform(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    for place in places(a.dim, len(axes)):
        c.units.freeze_axis(axes[place], c.because("positions of a Fourier transform"))
        axes[place] = c.fixed([out.shape[place]], "positions of a Fourier transform")[0]
    return axes
