"""Accuracy against strength; the best strength is chosen on validation images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from canon.merging.plotting import check_format, write_figure
from canon.types import StateDict
from weightflow.batched.accuracy import measured
from weightflow.batched.tasks import Task
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.networks.architectures import Architecture

STRENGTHS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class StrengthResult:
    """A network made with a strength, and its accuracies, fractions of 1."""

    strength: float
    state: StateDict
    validation: float
    test: float


def sweep(
    make: Callable[[float], StateDict],
    architecture: Architecture,
    task: Task,
    strengths: Sequence[float] = STRENGTHS,
) -> list[StrengthResult]:
    """`make(strength)` is a stack of one network for `task`; each is measured."""
    found, data = [], task.data
    for strength in strengths:
        state = make(strength)
        validation = measured(architecture, state, data, [task])[0]["validation"]
        test = float(evaluate_networks(architecture, state, [task]).accuracy)
        found.append(StrengthResult(strength, state, validation, test))
    return found


def best(tried: Sequence[StrengthResult]) -> StrengthResult:
    """The best on validation images; of equals the one nearest to the network as it was."""
    return max(tried, key=lambda one: (one.validation, -one.strength))


def plot(tried: Sequence[StrengthResult], path: str | os.PathLike[str], chance: float) -> None:
    """A picture of both accuracies against strength; the suffix of `path` decides the format."""
    from matplotlib.figure import Figure

    check_format(path)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes, x = figure.subplots(), [one.strength for one in tried]
    axes.plot(x, [100 * one.validation for one in tried], "o-", label="validation images, which decide")
    axes.plot(x, [100 * one.test for one in tried], "o-", label="test images")
    axes.axhline(100 * chance, linestyle=":", color="grey", label="chance")
    axes.set(xlabel="strength   (0 = as it is, 1 = a new network)", ylabel="accuracy, %")
    axes.legend()
    axes.grid(alpha=0.3)
    write_figure(figure, path)
