"""A picture of the line between two networks."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from canon.errors import InputError
from canon.io.files import atomic_write
from canon.merging.interpolation import Curve

FORMATS = ("png", "svg", "pdf")


def plot_curves(curves: Mapping[str, Curve], path: str | os.PathLike[str]) -> None:
    """Loss and accuracy along the line, one colour for each named curve; the suffix decides the format."""
    from matplotlib.figure import Figure

    check_format(path)
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=150)
    atomic_write(path, buffer.getvalue())


def check_format(path: str | os.PathLike[str]) -> None:
    """`InputError` unless the suffix is one that can be drawn."""
    if Path(path).suffix[1:].lower() not in FORMATS:
        raise InputError(f"{path}: a picture's file name ends in .{', .'.join(FORMATS)}")
