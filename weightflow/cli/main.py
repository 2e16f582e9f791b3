"""The command line. Reading the commands from top to bottom reads the pipeline; their code is in `commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from canon.cli import console
from weightflow.cli import backbone, downstream, evaluate, export, sample, train, verify, zoo

PIPELINE = (
    *("demo", "backbone", "zoo", "canonicalize", "train", "sample", "evaluate", "report"),
    *("fuse", "enhance", "transfer", "export", "verify"),
)


class InPipelineOrder(TyperGroup):
    """Lists commands in the order in which data flows through them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=PIPELINE.index)


app = console.application(
    "Generate neural networks from words.\n\n"
    "tasks ─► zoo ─► canonicalize ─► train ─► sample ─► evaluate ─► report",
    InPipelineOrder,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Two runs with one seed on one machine are identical.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """The whole pipeline on the digits that scikit-learn ships, in a few minutes.

    Every step is an ordinary command and is shown as you would type it. Stopped? Run it again: it goes
    on where it was.
    """
    from weightflow.cli.demo import run_demo

    run_demo(app, out, seed, as_json)


app.add_typer(backbone.app, name="backbone")
app.add_typer(zoo.app, name="zoo")
for stage in (train, sample, evaluate, downstream, export, verify):
    app.add_typer(stage.app)


def main() -> None:
    console.run(app, name="weightflow")


if __name__ == "__main__":
    main()
