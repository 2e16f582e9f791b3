"""`weightflow export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import FormatName

app = typer.Typer()
PRETRAINED = "pretrained"


@app.command()
def export(
    networks: Annotated[
        Path, typer.Argument(help="Folder of generated networks or any zoo; for pretrained, of a run.")
    ],
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    format: Annotated[
        FormatName,
        typer.Option(help="Weights (safetensors), programs (pt2, onnx), or the generator itself."),
    ] = "safetensors",
    count: Annotated[int | None, typer.Option(help="Number of networks; all by default.")] = None,
    prepared: Annotated[
        bool,
        typer.Option("--prepared", help="Exported programs take preprocessed inputs instead of raw ones."),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload instead of writing files: a zoo as a data set of the Hugging Face hub, a run as a model.",
        ),
    ] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Write networks as separate files, or a generator as a self-contained folder.

    Architecture, classes and preprocessing are in each file's metadata. A .pt2 program runs with torch
    alone, an .onnx one is run in onnxruntime before it is written.

    Example: [bold]weightflow export nets --format pt2 --out files[/]

    Example: [bold]weightflow export runs/digits --format pretrained --out generator[/]
    """
    if (out is None) == (push is None):
        raise InputError("give a folder for the files, --out, or a name on the hub, --push OWNER/NAME")
    from weightflow import folders

    is_run = folders.is_run(networks)
    if push is not None:
        name = _pushed(networks, push, is_run)
        console.show({"hub": name}, name, as_json)
        return
    assert out is not None
    if format == PRETRAINED:
        _export_generator(networks, out, as_json)
        return
    if is_run:
        raise InputError(
            f"{networks} is a run; write its generator with --format pretrained, or networks that it makes: "
            f"weightflow sample {networks} --classes ... --out nets"
        )
    from weightflow.export.export import export_zoo
    from weightflow.zoo.store import Zoo

    zoo = Zoo(networks)
    total = len(zoo) if count is None else min(count, len(zoo))
    try:
        with console.progress(total, "exporting", quiet=quiet) as steps:
            files = export_zoo(zoo, out, count, format, prepared, steps.advance)
    except (KeyboardInterrupt, Exception) as stop:
        if steps.taken:
            stop.add_note(
                f"{steps.taken} of {total} networks are in {out}; run the same command again to write them all"
            )
        raise
    console.show({"files": [str(f) for f in files]}, f"{out}: {console.many(len(files), 'network')}", as_json)


def _pushed(folder: Path, repository: str, is_run: bool) -> str:
    """Upload, and the name by which commands read what was uploaded."""
    from weightflow.generator.generator import Flow
    from weightflow.zoo.hub import push_to_hub
    from weightflow.zoo.store import Zoo

    if is_run:
        Flow(folder).push_to_hub(repository)
        return f"hf://{repository}"
    return push_to_hub(Zoo(folder), repository)


def _export_generator(run: Path, out: Path, as_json: bool) -> None:
    from weightflow.generator.generator import Flow, save_generator

    flow = Flow(run)
    save_generator(flow, out)
    if flow.architecture.has_statistics:
        console.say(
            "its networks have batch norm: to sample, it needs training examples of "
            f"'{flow.header.zoo.dataset}' on the computer where it runs"
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    found = {"generator": str(out), "files": sorted(path.name for path in out.iterdir()), "bytes": size}
    console.show(found, f"{out}: the generator, {size / 2**20:.1f} MiB, and its card README.md", as_json)
