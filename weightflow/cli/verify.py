"""`weightflow verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console

app = typer.Typer()


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="Folder of a zoo, of a run or of a saved generator.")],
    as_json: bool = console.JSON,
) -> None:
    """Check every file of a zoo, a run or a saved generator against its hash.

    Exit code 1 where one is missing or damaged. Files that carry no hash are only checked to be readable.

    Example: [bold]weightflow verify runs/digits[/]
    """
    from weightflow.folders import any_folder, wrong_kind
    from weightflow.generator.verify import verify_generator
    from weightflow.training.run_store import has_config
    from weightflow.zoo.store import has_manifest, problems_of

    path = any_folder(path)
    if has_config(path):
        problems = verify_generator(path)
    elif has_manifest(path):
        problems = problems_of(path)
    else:
        raise wrong_kind(path, "a zoo, a run or a saved generator")
    sound = f"{path}: every file is as it was written"
    console.show({"sound": not problems, "problems": problems}, "\n".join(problems) or sound, as_json)
    if problems:
        raise typer.Exit(1)
