"""What each ATen operation says about the axes it touches; one handler per kind of operation.

A handler receives the context and the operation's arguments by name and returns the axes of the result
(one list of axes per result). What has no handler here freezes everything it touches.
"""

from canon.operations import (
    elementwise,
    layout,
    norms,
    opaque,
    products,
    reductions,
    spectra,
    taking,
    windows,
)
from canon.operations.context import HANDLERS, MOVES, Context, Traced, unknown
from canon.operations.elementwise import pointwise

__all__ = [
    "HANDLERS",
    "MOVES",
    "Context",
    "Traced",
    "elementwise",
    "layout",
    "norms",
    "opaque",
    "pointwise",
    "products",
    "reductions",
    "spectra",
    "taking",
    "unknown",
    "windows",
]
