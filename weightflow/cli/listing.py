"""`weightflow list`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from canon.cli import console

Kind = Literal["recipes", "presets", "architectures", "datasets", "encoders"]


def listing(
    kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: bool = console.JSON
) -> None:
    """List the names of recipes, presets, architectures, data sets or text encoders, plug-ins included.

    Example: [bold]weightflow list recipes[/]
    """
    found = _described(kind)
    width = max(map(len, found), default=0)
    lines = [f"{name:{width}}  {text}".rstrip() for name, text in found.items()]
    console.show(found, "\n".join(lines), as_json)


def _described(kind: Kind) -> dict[str, str]:
    """A line for each name: of a TOML file its first comment, of a function its first line of documentation."""
    if kind in ("recipes", "presets"):
        from weightflow.training import presets
        from weightflow.zoo import recipe

        paths = recipe.built_in() if kind == "recipes" else presets.built_in()
        return {
            name: path.read_text(encoding="utf-8").partition("\n")[0].strip("# ")
            for name, path in paths.items()
        }
    from weightflow.datasets import SOURCES
    from weightflow.networks.architectures import FAMILIES
    from weightflow.text import ENCODERS

    table = {"architectures": FAMILIES, "datasets": SOURCES, "encoders": ENCODERS}[kind]
    return {
        name: (table[name].__doc__ or f"of {table[name].__module__}").strip().partition("\n")[0]
        for name in table
    }
