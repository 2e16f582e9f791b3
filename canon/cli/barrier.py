"""The straight line between two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, examples_of
from canon.cli.option_groups import HintOptions, MatchOptions
from canon.cli.options import Network, Other, Repair, Train


def barrier(
    a: Network,
    b: Other,
    data: Annotated[
        Path, typer.Option("--data", metavar="X.npz", help="Where to score: an .npz with x and y.")
    ],
    *,
    aligned: Annotated[bool, typer.Option("--align", help="Also align B to A, and score that line.")] = False,
    train: Train = None,
    repair: Repair = "none",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="P.png", help="Draw it (png, svg, pdf).")
    ] = None,
    points: Annotated[int, typer.Option("--points", min=3, help="Points on the line, ends included.")] = 11,
    hints: HintOptions,
    matching: MatchOptions,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Walk the straight line from A to B and say how far loss and accuracy leave it.

    The loss barrier is the largest rise of the loss above the straight line between its ends.

    The network's code must be known: give --model, or .pt2 files.

    [bold]Example[/bold]

      canon barrier a.pt b.pt --model nets.py:build --data x.npz --align
    """
    check_outputs(plot)
    from canon.api import averaging
    from canon.io.examples import read_data
    from canon.merging.plotting import check_format, save_plot

    if plot is not None:
        check_format(plot)
    with console.progress(points * (1 + aligned), "scoring", quiet=quiet) as steps:
        curves = averaging.barrier(
            a,
            b,
            read_data(data, labels=True),
            align=aligned,
            repair=repair,
            train=examples_of(train),
            points=points,
            advance=steps.advance,
            **hints.arguments(),
            **matching.arguments(),
        )
    if plot is not None:
        save_plot(curves, plot)
    result = {name: formatting.curve(found) for name, found in curves.items()}
    console.show(result, formatting.barriers(result), json)
