"""The mean of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, draws, examples_of, write
from canon.cli.option_groups import HintOptions, MatchOptions
from canon.cli.options import Out, Repair, Train


def merge(
    networks: Annotated[list[Path], typer.Argument(metavar="A B", help="Two networks or more.")],
    out: Out,
    *,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Their shares, as 0.7,0.3; equal if not given.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--align/--as-they-are", help="Align all to the first before taking the mean.")
    ] = True,
    train: Train = None,
    repair: Repair = "none",
    hints: HintOptions,
    matching: MatchOptions,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Take the weighted mean of networks, aligned to the first; the result is like the first one's file.

    [bold]Examples[/bold]

      canon merge a.pt b.pt c.pt --out mean.safetensors

      canon merge a.pt b.pt --weights 0.7,0.3 --model nets.py:build --train x.npz --repair batch-norm -o m.pt
    """
    check_outputs(out)
    from canon.merging.merge import merge_networks, parse_weights
    from canon.models.loading import find_runnable
    from canon.models.spec_resolution import read_one, resolve

    shares, examples = parse_weights(weights, len(networks)), examples_of(train)
    found, said = [read_one(path) for path in networks], hints.hints()
    runnable = find_runnable(found[0], said)
    with console.progress(len(networks) - 1, "merging", quiet=quiet) as steps:
        merged, result = merge_networks(
            found,
            shares,
            [str(path) for path in networks],
            resolved=resolve(found[0], said, runnable) if aligned else None,
            matcher=matching.matcher(runnable, examples),
            balance=matching.balance,
            runnable=runnable,
            repair=repair,
            train=examples,
            batch=matching.batch,
            generator=draws(),
            advance=steps.advance,
        )
    write(out, merged)
    for warning in result["warnings"]:
        console.say(f"warning: {warning}")
    console.show(result, formatting.merging(result, str(out)), json)
