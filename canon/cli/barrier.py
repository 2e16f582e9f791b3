"""The straight line between two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, draws, examples_of
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

      canon barrier a.pt b.pt --model nets.py:build --data test.npz --align --plot line.png
    """
    check_outputs(plot)
    from canon.alignment import align
    from canon.io.examples import read_data
    from canon.merging.barriers import barriers
    from canon.merging.plotting import check_format, plot_curves
    from canon.models.loading import find_runnable, require_runnable
    from canon.models.spec_resolution import read_pair, resolve

    if plot is not None:
        check_format(plot)
    pair, said = read_pair(a, b), hints.hints()
    runnable = require_runnable(find_runnable(pair.known, said))
    scored, statistics = read_data(data, labels=True), examples_of(train)
    lines = {"unaligned": (pair.a.state, pair.b.state)}
    if aligned:
        matcher = matching.matcher(runnable, statistics)
        resolved = resolve(pair.known, said, runnable)
        done = align(pair.a, pair.b, resolved, matcher, balance=matching.balance, generator=draws())
        lines["aligned"] = (pair.a.state, done.aligned.state)
    with console.progress(points * len(lines), "scoring", quiet=quiet) as steps:
        curves = barriers(
            runnable,
            lines,
            scored,
            points=points,
            batch=matching.batch,
            repair=repair,
            train=statistics,
            advance=steps.advance,
        )
    if plot is not None:
        plot_curves(curves, plot)
    result = {name: formatting.curve(found) for name, found in curves.items()}
    console.show(result, formatting.barriers(result), json)
