"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Seed = Annotated[int | None, typer.Option(help="Seed of everything random in this step.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting, for instance [bold]--set steps=500[/]. May be repeated."),
]
