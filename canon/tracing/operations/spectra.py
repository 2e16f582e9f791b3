"""Fourier transforms (which mix positions and preserve other axes) and complex numbers viewed as pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, handles, places

_ONE = "fft ifft rfft irfft hfft ihfft"
_MANY = "fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn"


@handles(
    "_fft_r2c",
    "_fft_c2c",
    "_fft_c2r",
    *(f"fft_{name}" for name in (*_ONE.split(), *_MANY.split(), "fftshift", "ifftshift")),
)
def transform(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    sizes = getattr(a, "s", None)
    last = list(range(-len(sizes), 0)) if a.dim is None and sizes is not None else a.dim
    for place in places(last, len(axes)):
        c.units.freeze_axis(axes[place], c.because("positions of a Fourier transform"))
        axes[place] = c.fixed([out.shape[place]], "positions of a Fourier transform")[0]
    return axes


@handles("view_as_real", "view_as_complex")
def pairs(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Real and imaginary parts stand on the last axis."""
    axes = c.axes(a.self)
    if c.name == "view_as_real":
        return [*axes, c.fixed([2], "real and imaginary parts")[0]]
    c.units.freeze_axis(axes[-1], c.because("real and imaginary parts"))
    c.still(axes[-1:])
    return axes[:-1]
