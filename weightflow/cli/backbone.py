"""`weightflow backbone`: train a backbone, or take a pretrained one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canon.cli import console
from weightflow.cli.options import Device, Download, Seed, settings_like
from weightflow.cli.own_code import settings_of

if TYPE_CHECKING:
    from weightflow.backbones.train import BackboneTrainer, Epoch

app = typer.Typer(
    help="Frozen feature extractors for heads and adapters: train, take.",
    no_args_is_help=True,
)


@app.command("train")
def train(
    dataset: Annotated[str, typer.Argument(help="A data set of images.")],
    out: Annotated[Path, typer.Option(help="File of the backbone.")],
    exclude: Annotated[
        str | None, typer.Option(help="Classes to exclude from training, separated by commas.")
    ] = None,
    seed: Seed = None,
    download: Download = False,
    device: Device = "cpu",
    settings: Annotated[list[str] | None, settings_like("epochs=10")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a backbone on a data set's training images, a residual network with 512 features.

    If it was interrupted, run the same command again: it resumes bit for bit, after SIGKILL from the last finished epoch.

    Example: [bold]weightflow backbone train cifar100 --exclude wolf --out b.safetensors[/]
    """
    from canon.io.checkpoint import check_suffix
    from canon.io.files import require_folder
    from weightflow import config, datasets
    from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
    from weightflow.device import computing_on

    check_suffix(out)
    require_folder(out)
    changes = config.replace_nested(settings_of(settings), {"seed": seed})
    recipe = config.build(BackboneRecipe, changes)
    if download:
        from weightflow.datasets.download import fetch

        console.say(f"data in {fetch(dataset)}")
    data = datasets.load(dataset)
    excluded = [part.strip() for part in exclude.split(",")] if exclude else []
    with computing_on(device):
        trainer = BackboneTrainer(data, recipe, out, excluded)
    with console.progress(trainer.steps, "training the backbone", done=trainer.done, quiet=quiet) as steps:
        last = _until_stopped(trainer, steps.advance)
    console.show(
        {"backbone": str(out), "validation_accuracy": last.accuracy, "excluded": excluded},
        f"{out}: validation accuracy {100 * last.accuracy:.1f} % on the classes it was trained on",
        as_json,
    )


def _until_stopped(trainer: BackboneTrainer, advance: Callable[[int, str], None]) -> Epoch:
    """Train; Ctrl-C, SIGTERM and SIGHUP stop after the current mini-batch, and the state is saved."""
    try:
        with console.deferred() as stop:
            last = trainer.run(advance, stop)
    except (KeyboardInterrupt, Exception) as error:
        error.add_note(
            f"mini-batch {trainer.saved} of {trainer.steps} is saved in {trainer.partial}; run the same command "
            "again to go on"
            if trainer.saved
            else "nothing was written; run the same command again"
        )
        raise
    assert last is not None
    return last


@app.command("take")
def take(
    model: Annotated[str, typer.Argument(help="torchvision:NAME or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="File of the backbone.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of this model on this computer; the library's hub otherwise.")
    ] = None,
    as_json: bool = console.JSON,
) -> None:
    """Make a backbone of a pretrained model of torchvision or timm.

    Example: [bold]weightflow backbone take torchvision:resnet18 --out b.safetensors[/]
    """
    from canon.io.checkpoint import check_suffix
    from canon.io.files import require_folder
    from weightflow import backbones

    check_suffix(out)
    require_folder(out)
    width = backbones.take(model, out, checkpoint)
    console.show({"backbone": str(out), "features": width}, f"{out}: {width} features", as_json)
