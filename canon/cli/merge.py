"""`canon merge`: average networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_network_output, examples_of
from canon.cli.option_groups import HintOptions, MatchOptions
from canon.cli.options import ExceptFor, Out, Repair, Train


def merge(
    networks: Annotated[list[Path], typer.Argument(metavar="A B", help="Two networks or more.")],
    out: Out,
    *,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Weights of the average, for example 0.7,0.3; equal by default."),
    ] = None,
    aligned: Annotated[
        bool,
        typer.Option("--align/--as-they-are", help="Align all networks to the first one before averaging."),
    ] = True,
    train: Train = None,
    repair: Repair = "none",
    hints: HintOptions,
    matching: MatchOptions,
    except_for: ExceptFor = None,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Average networks after aligning them to the first one; the result has the format of the first file.

    [bold]Examples[/bold]

      canon merge a.pt b.pt c.pt --out mean.safetensors

      canon merge a.pt b.pt --weights 0.7,0.3 --model nets.py:build --out m.pt
    """
    check_network_output(out, *networks)
    from canon.api import averaging
    from canon.merging.merge import parse_weights

    shares = parse_weights(weights, len(networks))
    with console.progress(len(networks) - 1, "merging", quiet=quiet) as steps:
        done = averaging.merge(
            networks,
            weights=shares,
            align=aligned,
            repair=repair,
            train=examples_of(train),
            except_for=except_for or (),
            advance=steps.advance,
            **hints.arguments(),
            **matching.arguments(),
        )
    done.save(out)
    for warning in done.report["warnings"]:
        console.say(f"warning: {warning}")
    console.show(done.report, formatting.merging(done.report, str(out)), json)
