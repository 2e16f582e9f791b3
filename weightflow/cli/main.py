"""The command line: one file for each stage of the pipeline, put together here."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from canon.cli import console
from weightflow import __version__
from weightflow.cli import backbone, downstream, evaluate, export, listing, sample, train, verify, zoo

PIPELINE = (
    *("demo", "list", "backbone", "zoo", "canonicalize", "train", "sample", "evaluate", "report"),
    *("fuse", "enhance", "transfer", "export", "verify"),
)
PLUGIN = "--plugin"


class InPipelineOrder(TyperGroup):
    """Lists commands in the order in which data flows through them; `--plugin` may stand anywhere."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=PIPELINE.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first, rest, waiting = [], [], iter(args)
        for argument in waiting:
            if argument == PLUGIN:
                first += [argument, *islice(waiting, 1)]
            elif argument.startswith(f"{PLUGIN}="):
                first.append(argument)
            else:
                rest.append(argument)
        return super().parse_args(ctx, [*first, *rest])


app = console.application(
    "Generate neural networks from words.\n\n"
    "tasks ─► zoo ─► canonicalize ─► train ─► sample ─► evaluate ─► report\n\n"
    "Exit codes: 0 done; 1 the work failed, or `verify` found damage; 2 wrong input; 130 interrupted.",
    __version__,
    InPipelineOrder,
)


@app.callback()
def options(
    debug: bool = console.DEBUG,
    version: bool = console.version_option(__version__),
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            PLUGIN,
            metavar="MODULE",
            help="Import your own module (or FILE.py): what it registers, and MODULE:FUNCTION, can be named as "
            "architecture, data set or text encoder (may stand anywhere, repeatable).",
        ),
    ] = None,
) -> None:
    if plugin:
        from weightflow.registry import load_plugin

        for name in plugin:
            load_plugin(name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(help="Random seed; two runs with one seed on one machine are identical.")
    ] = 0,
    as_json: bool = console.JSON,
) -> None:
    """The whole pipeline on the digits that scikit-learn ships, in a few minutes.

    Every step is an ordinary command, which is printed. If it was interrupted, run it again: it resumes
    on where it was.
    """
    console.say("loading torch")  # seconds on a cold disk
    from weightflow.cli.demo import run_demo

    run_demo(app, out, seed, as_json)


app.command("list")(listing.listing)
app.add_typer(backbone.app, name="backbone")
app.add_typer(zoo.app, name="zoo")
for stage in (train, sample, evaluate, downstream, export, verify):
    app.add_typer(stage.app)


def main() -> None:
    console.run(app, name="weightflow")


if __name__ == "__main__":
    main()
