"""`canon apply`: apply a saved transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from canon.cli import console
from canon.cli.inputs_outputs import check_network_output
from canon.cli.options import Network, Out


def apply(
    t: Annotated[Path, typer.Argument(metavar="T", help="A transform that `canon align --transform` wrote.")],
    a: Network,
    out: Out,
    kind: Annotated[
        Literal["network", "task-vector", "lora", "optimizer"], typer.Option("--kind", help="What A is.")
    ] = "network",
    invert: Annotated[bool, typer.Option("--invert", help="Apply the inverse.")] = False,
    fan_in_fan_out: Annotated[
        bool, typer.Option("--fan-in-fan-out", help="LoRA of weights stored (in, out), as GPT-2's.")
    ] = False,
    json: bool = console.JSON,
) -> None:
    """Apply a transform to a network, or to what belongs to it.

    --kind task-vector is the difference of two checkpoints.

    --kind lora holds low-rank factors, named as PEFT names them.

    --kind optimizer holds what `optimizer.state_dict()` gave.

    [bold]Examples[/bold]

      canon align a.pt b.pt --out c.pt --transform t.safetensors

      canon apply t.safetensors b-finetuned.pt --out c-finetuned.pt

      canon apply t.safetensors lora.safetensors --kind lora --out l.safetensors
    """
    check_network_output(out, a, t)
    from canon.actions.transform_files import transform_file
    from canon.models.stored_keys import stored_keys

    count = transform_file(
        t, a, out, kind=kind, invert=invert, fan_in_fan_out=fan_in_fan_out, keys_of=stored_keys
    )
    console.show(
        {"tensors": count, "out": str(out)}, f"{count} tensors of {a} transformed\nwrote {out}", json
    )
