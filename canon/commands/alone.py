"""What one network says about itself: its groups, and its canonical form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon import console, describe
from canon.commands.groups import HintOptions
from canon.commands.shared import check_outputs, draws, write, write_text
from canon.options import Assume, Family, Input, Model, Network, Out, TransformOut


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
    from canon.resolve import read_one, resolve

    if fold and transform is not None:
        raise InputError("--transform keeps relabellings and scales, which folding is not; leave one out")
    network = read_one(a)
    resolved = resolve(network, hints.hints())
    if fold:
        folded, report = folded_form(network, resolved, draws())
        write(out, folded)
        console.show(report, describe.folding(report, str(out)), json)
        return
    done = canonical_form(network, resolved, draws())
    write(out, done.aligned)
    if transform is not None:
        done.transform.save(transform)
    console.show(done.report, describe.canonical(done.report, str(out)), json)


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
    from canon.resolve import read_one, resolve

    resolved = resolve(read_one(a), HintOptions(None, model, family, input, assume).hints())
    if spec is not None:
        write_text(spec, resolved.spec.to_json() + "\n")
    found = describe.spec(resolved.spec, resolved.source, resolved.assumptions)
    console.show(found, describe.tables(found), json)
