"""Networks as files that others read: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon import console

app = typer.Typer()


@app.command()
def export(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    out: Annotated[Path, typer.Option(help="Folder of the plain files.")],
    count: Annotated[int | None, typer.Option(help="How many; all by default.")] = None,
    as_json: bool = console.JSON,
) -> None:
    """Write networks as plain .safetensors files that load anywhere, one a network.

    The architecture and the classes are in each file's metadata.
    """
    from weightflow.export import export_zoo
    from weightflow.zoo.store import Zoo

    files = export_zoo(Zoo(networks), out, count)
    console.show({"files": [str(f) for f in files]}, f"{out}: {len(files)} networks", as_json)
