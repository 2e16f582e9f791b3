"""`canon canonicalize`: a canonical order of one network's units."""

from __future__ import annotations

from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_network_output, check_outputs
from canon.cli.option_groups import HintOptions
from canon.cli.options import Network, Out, TransformOut


def canonicalize(
    a: Network,
    out: Out,
    *,
    hints: HintOptions,
    transform: TransformOut = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Fold gains and biases of norms, and scales that a batch norm absorbs, into the following linear layers and convolutions.",
        ),
    ] = False,
    json: bool = console.JSON,
) -> None:
    """Sort A's hidden units into a canonical order; all permuted copies of A give the same file.

    Units of odd activations (tanh, sin) also get canonical signs.

    [bold]Examples[/bold]

      canon canonicalize a.pt --out c.safetensors

      canon canonicalize vit.pt --model nets.py:build --fold --out c.safetensors
    """
    check_network_output(out, a)
    check_outputs(transform, inputs=(a,))
    from canon.api import alignment
    from canon.errors import InputError

    if fold and transform is not None:
        raise InputError("--transform keeps relabellings and scales, which folding is not; leave one out")
    done = alignment.canonicalize(a, fold=fold, **hints.arguments())
    done.save(out)
    if transform is not None and done.transform is not None:
        done.transform.save(transform)
    told = formatting.folding if fold else formatting.canonical
    console.show(done.report, told(done.report, str(out)), json)
