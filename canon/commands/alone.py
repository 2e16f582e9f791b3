"""What one network says about itself: its groups, and its canonical form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon import console, describe
from canon.commands.groups import HintOptions
from canon.commands.shared import check_outputs, draws, write, write_text
from canon.options import Network, Out, TransformOut


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
    moved = f"{done.report['moved_fraction']:.1%} of the units moved"
    console.show(done.report, f"{moved}; the function stayed: {done.report['proof']}\nwrote {out}", json)


def inspect(
    a: Network,
    *,
    hints: HintOptions,
    save_spec: Annotated[
        Path | None,
        typer.Option(
            "--save-spec", metavar="OUT.json", help="Write the spec to this new file, to keep or amend."
        ),
    ] = None,
    json: bool = console.JSON,
) -> None:
    """Show the groups of A's units: what moves, what is frozen, and why.

    [bold]Examples[/bold]

      canon inspect resnet18.pth

      canon inspect net.pt --model nets.py:build --input 1x3x32x32 --save-spec groups.json
    """
    check_outputs(save_spec)
    from canon.errors import InputError
    from canon.resolve import read_one, resolve

    if save_spec is not None and save_spec.exists():
        raise InputError(f"--save-spec {save_spec} exists already; name a new file, or delete that one")
    resolved = resolve(read_one(a), hints.hints())
    if save_spec is not None:
        write_text(save_spec, resolved.spec.to_json() + "\n")
    found = describe.spec(resolved.spec, resolved.source)
    console.show(found, describe.tables(found), json)
