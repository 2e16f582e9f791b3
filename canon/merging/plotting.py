"""Plots of loss and accuracy along linear paths."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from canon.errors import InputError
from canon.io.files import atomic_write
from canon.merging.interpolation import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


def plot(curves: Mapping[str, Curve]) -> Figure:
    """Draw loss and accuracy along a path, one colour for each named curve.

    Args:
        curves: what `canon.barrier` returns.

    Returns:
        A matplotlib figure; `figure.savefig("path.png")` writes it, a notebook shows it.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import canon
        >>> from canon.merging.interpolation import Score
        >>> curve = canon.Curve((0.0, 0.5, 1.0), (Score(0.1, 0.9), Score(0.5, 0.6), Score(0.1, 0.9)))
        >>> len(canon.plot({"unaligned": curve}).axes)
        2
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, found in curves.items():
        losses = [score.loss for score in found.scores]
        accuracies = [score.accuracy for score in found.scores]
        (line,) = left.plot(found.weights, losses, "o-", label=f"{label}: barrier {found.loss_barrier:.3g}")
        left.plot([0, 1], [losses[0], losses[-1]], ":", color=line.get_color())
        right.plot(found.weights, accuracies, "o-", label=f"{label}: barrier {found.accuracy_barrier:.3g}")
        right.plot([0, 1], [accuracies[0], accuracies[-1]], ":", color=line.get_color())
    for axes, name in ((left, "loss"), (right, "accuracy")):
        axes.set(xlabel="λ   (0 = A, 1 = B)", ylabel=name, title=f"{name} on the straight line")
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def save_plot(curves: Mapping[str, Curve], path: str | os.PathLike[str]) -> None:
    """Write the picture; the suffix decides the format."""
    check_format(path)
    write_figure(plot(curves), path)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure, the same one to the same bytes: without a date, and with names by content."""
    import matplotlib

    buffer, format = io.BytesIO(), Path(path).suffix[1:].lower()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "canon"}):
        figure.savefig(buffer, format=format, dpi=150, metadata=dates.get(format))
    atomic_write(path, buffer.getvalue())


def check_format(path: str | os.PathLike[str]) -> None:
    """`InputError` unless the suffix is one that can be drawn."""
    if Path(path).suffix[1:].lower() not in FORMATS:
        raise InputError(f"{path}: a picture's file name ends in .{', .'.join(FORMATS)}")
