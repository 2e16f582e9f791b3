"""`canon canonicalize`: a canonical order of one network's units."""

from __future__ import annotations

from typing import Annotated

import typer

from canon.cli import console, formatting
from canon.cli.inputs_outputs import check_outputs, draws, write
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
            help="Let linear layers and convolutions take the gains and biases of norms before them, and the scale that a batch norm absorbs.",
        ),
    ] = False,
    json: bool = console.JSON,
) -> None:
    """Bring A into an order that depends on nothing but A: every relabelling of A gives the same file.

    Units of odd activations (tanh, sin) also get canonical signs.

    [bold]Examples[/bold]

      canon canonicalize a.pt --out c.safetensors

      canon canonicalize vit.pt --model nets.py:build --fold --out c.safetensors
    """
    check_outputs(out, transform)
    from canon.alignment import canonical_form, folded_form
    from canon.errors import InputError
    from canon.models.spec_resolution import read_one, resolve

    if fold and transform is not None:
        raise InputError("--transform keeps relabellings and scales, which folding is not; leave one out")
    network = read_one(a)
    resolved = resolve(network, hints.hints())
    if fold:
        folded, report = folded_form(network, resolved, draws())
        write(out, folded)
        console.show(report, formatting.folding(report, str(out)), json)
        return
    done = canonical_form(network, resolved, draws())
    write(out, done.aligned)
    if transform is not None:
        done.transform.save(transform)
    console.show(done.report, formatting.canonical(done.report, str(out)), json)
