"""`canon inspect`: the groups of one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, write_text
from canon.cli.option_groups import HintOptions
from canon.cli.options import Network


def inspect(
    a: Network,
    *,
    hints: HintOptions,
    save_spec: Annotated[
        Path | None,
        typer.Option(
            "--save-spec", metavar="OUT.json", help="Write the spec to this new file, for example to edit it."
        ),
    ] = None,
    json: bool = console.JSON,
) -> None:
    """List the permutation groups of A: which units can be permuted, which are frozen, and why.

    [bold]Examples[/bold]

      canon inspect resnet18.pth

      canon inspect net.pt --model nets.py:build --save-spec groups.json
    """
    check_outputs(save_spec, inputs=(a,))
    from canon.api import inspection
    from canon.errors import InputError
    from canon.models.spec_resolution import spec_text

    found = inspection.inspect(a, **hints.arguments())
    if save_spec is not None:
        content = spec_text(found.spec)
        # the same content was written by an earlier call that was interrupted afterwards
        if os.path.lexists(save_spec) and (
            not save_spec.is_file() or save_spec.read_bytes() != content.encode()
        ):
            raise InputError(f"--save-spec {save_spec} exists already; name a new file, or delete that one")
        write_text(save_spec, content)
    told = formatting.spec(found.spec, found.source, found.assumptions)
    console.show(told, formatting.tables(told), json)
