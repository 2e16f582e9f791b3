"""`canon align`: permute one network to match another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_network_output, check_outputs, examples_of, write_text
from canon.cli.option_groups import HintOptions, MatchOptions
from canon.cli.options import Examples, ExceptFor, Out, TransformOut
from canon.io.json_text import json_text


def align(
    a: Annotated[Path, typer.Argument(metavar="A", help="Reference network.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Network to permute.")],
    out: Out,
    *,
    hints: HintOptions,
    data: Examples = None,
    matching: MatchOptions,
    except_for: ExceptFor = None,
    transform: TransformOut = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="Write the report.")
    ] = None,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Permute the units of B to match A without changing the function of B.

    With code (--model, .pt2) that is verified numerically; for a bare checkpoint the report names what it assumes.

    C keeps B's keys, order, dtypes and metadata, so it loads wherever B did.

    [bold]Examples[/bold]

      canon align a.pt b.pt --out c.safetensors

      canon align a.pt b.pt --model nets.py:build --input 1x3x32x32 --out c.pt
    """
    check_network_output(out, b, a)
    check_outputs(transform, report, inputs=(a, b))
    from canon.api import alignment

    with console.progress(None, "matching", quiet=quiet):
        done = alignment.align(
            a,
            b,
            data=examples_of(data),
            except_for=except_for or (),
            **hints.arguments(),
            **matching.arguments(),
        )
    done.save(out)
    if transform is not None and done.transform is not None:
        done.transform.save(transform)
    if report is not None:
        write_text(report, json_text(done.report) + "\n")
    console.show(done.report, formatting.alignment(done.report, str(out)), json)
