"""`canon inspect`: the groups of one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, write_text
from canon.cli.option_groups import HintOptions
from canon.cli.options import Assume, Family, Input, Model, Network


def inspect(
    a: Network,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="OUT.json", help="Write the spec here, to keep or amend.")
    ] = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    assume: Assume = None,
    json: bool = console.JSON,
) -> None:
    """Show the groups of A's units: what moves, what is frozen, and why.

    [bold]Examples[/bold]

      canon inspect resnet18.pth

      canon inspect net.pt --model nets.py:build --input 1x3x32x32 --spec groups.json
    """
    check_outputs(spec)
    from canon.api import inspection

    said = HintOptions(None, model, family, input, assume).arguments()
    del said["spec"]
    found = inspection.inspect(a, **said)
    if spec is not None:
        write_text(spec, found.spec.to_json() + "\n")
    told = formatting.spec(found.spec, found.source, found.assumptions)
    console.show(told, formatting.tables(told), json)
