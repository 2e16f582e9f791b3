"""Axis constraints of ATen operations; one handler per kind of operation.

A handler receives the context and the operation's arguments by name and returns the axes of the result
(one list of axes per result). What has no handler here freezes everything it touches.
"""

from canon.tracing.operations import (
    contractions,
    elementwise,
    indexing,
    normalization,
    opaque,
    pooling,
    recurrent,
    reductions,
    reshaping,
    spectra,
)
from canon.tracing.operations.context import HANDLERS, MOVES, Context, Traced, unknown
from canon.tracing.operations.elementwise import pointwise

__all__ = [
    "HANDLERS",
    "MOVES",
    "Context",
    "Traced",
    "contractions",
    "elementwise",
    "indexing",
    "normalization",
    "opaque",
    "pointwise",
    "pooling",
    "recurrent",
    "reductions",
    "reshaping",
    "spectra",
    "unknown",
]
