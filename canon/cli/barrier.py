"""`canon barrier`: loss along the linear path between two networks."""

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
        Path, typer.Option("--data", metavar="X.npz", help="Evaluation data: an .npz file with x and y.")
    ],
    *,
    aligned: Annotated[
        bool, typer.Option("--align", help="Also align B to A and evaluate that path.")
    ] = False,
    train: Train = None,
    repair: Repair = "none",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="P.png", help="Plot the result to this file (png, svg, pdf)."),
    ] = None,
    points: Annotated[
        int, typer.Option("--points", min=3, help="Number of points on the path, including its ends.")
    ] = 11,
    hints: HintOptions,
    matching: MatchOptions,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Evaluate loss and accuracy along the linear path from A to B and report the barriers.

    The loss barrier is the largest difference between the loss and the linear interpolation of its end points.

    Requires code: --model, or .pt2 files.

    [bold]Example[/bold]

      canon barrier a.pt b.pt --model nets.py:build --data x.npz --align
    """
    check_outputs(plot, inputs=(a, b))
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
