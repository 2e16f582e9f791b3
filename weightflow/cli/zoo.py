"""Populations of trained networks: build, import, inspect, verify, card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import DATASETS, RECIPES, Device, Download, ExecutorName, Seed, settings_like

app = typer.Typer(
    help="Populations of trained networks: build, import, inspect, verify.", no_args_is_help=True
)


@app.command("build")
def build(
    recipe: Annotated[str, typer.Argument(help=f"A TOML file, or one of: {RECIPES}.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    download: Download = False,
    executor: Annotated[ExecutorName, typer.Option(help="What trains the shards.")] = "local",
    workers: Annotated[int, typer.Option(help="Shards that are trained side by side.")] = 1,
    device: Device = "cpu",
    seed: Seed = None,
    settings: Annotated[list[str] | None, settings_like("training.steps=500")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a population of networks. What is there and sound is kept, what is missing is trained.

    Example: [bold]weightflow zoo build digits --out zoos/digits[/]
    """
    from weightflow import config
    from weightflow.device import computing_on, usable_device
    from weightflow.zoo.builders.executors import build_with
    from weightflow.zoo.recipe import read_recipe
    from weightflow.zoo.store import Zoo

    changes = config.replace_nested(config.dotted(settings or []), {"seed": seed})
    plan, device = read_recipe(recipe, changes), str(usable_device(device))
    if download:
        from weightflow.datasets.download import fetch

        console.say(f"data in {fetch(plan.dataset)}")
    total = plan.tasks.networks
    resume = f"finished shards are kept in {out}; run the same command again to go on"
    with (
        computing_on(device),
        console.on_interrupt(resume),
        console.progress(total, "training networks", quiet=quiet) as steps,
    ):
        trained = build_with(executor, plan, out, steps.advance, workers, device)
    result = {"zoo": str(out), "networks": len(Zoo(out)), "trained_now": trained}
    console.show(result, f"{out}: {len(Zoo(out))} networks, {trained} of them trained now", as_json)


@app.command("inspect")
def inspect(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON
) -> None:
    """Show what a zoo holds: architecture, lineage, splits, sizes, a histogram of accuracies."""
    from weightflow.zoo.store import Zoo
    from weightflow.zoo.summary import inspect_zoo, picture

    found = inspect_zoo(Zoo(zoo))
    console.show(found, picture(found), as_json)


@app.command("verify")
def verify(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON
) -> None:
    """Check shards, records, frame and base against their hashes. Exit code 1 where one is missing or damaged."""
    from weightflow.zoo.store import Zoo, problems_of

    problems, sound = problems_of(zoo), ""
    if not problems:
        opened = Zoo(zoo)
        sound = f"{zoo}: {len(opened)} networks in {len(opened.manifest['shards'])} shards, all sound"
    console.show({"sound": not problems, "problems": problems}, "\n".join(problems) or sound, as_json)
    if problems:
        raise typer.Exit(1)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of ordinary checkpoints of one architecture.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe whose architecture and data set they have.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help=f"Data set; the recipe's by default: {DATASETS}.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Classes in logit order, separated by commas.")] = None,
    lineage: Annotated[
        str, typer.Option(help="What is known of their origin: independent, branched or imported.")
    ] = "imported",
    settings: Annotated[list[str] | None, settings_like("training.steps=500")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Make a zoo of a folder of checkpoints. A file that does not fit is named.

    Example: [bold]weightflow zoo import files --dataset digits --out zoos/mine[/]
    """
    from weightflow import config
    from weightflow.text import Prompt
    from weightflow.zoo.import_checkpoints import checkpoint_files, import_zoo, own_architecture
    from weightflow.zoo.recipe import read_recipe
    from weightflow.zoo.store import Zoo

    files = checkpoint_files(folder)
    plan = read_recipe(recipe, config.dotted(settings or [])) if recipe else None
    name = dataset or (plan.dataset if plan else None)
    if name is None:
        raise InputError("name the data set whose classes they tell apart: --dataset, or --recipe")
    architecture = plan.make_architecture() if plan else own_architecture(files)
    asked = Prompt.parse(classes).classes if classes else None
    with console.progress(len(files), "reading networks", quiet=quiet) as steps:
        count = import_zoo(files, out, architecture, name, asked, lineage, progress=steps.advance)
    accuracy = [record.accuracy["validation"] for record in Zoo(out).records]
    least, mean, most = min(accuracy), sum(accuracy) / count, max(accuracy)
    console.show(
        {
            "zoo": str(out),
            "networks": count,
            "validation_accuracy": {"min": least, "mean": mean, "max": most},
        },
        f"{out}: {console.many(count, 'network')}, accuracy on validation examples {100 * mean:.1f} % "
        f"(from {100 * least:.1f} to {100 * most:.1f} %)",
        as_json,
    )


@app.command("card")
def card(zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")], as_json: bool = console.JSON) -> None:
    """Write the data-set card (README.md) that makes the folder publishable as it lies."""
    from weightflow.zoo.dataset_card import write_card
    from weightflow.zoo.store import Zoo

    path = write_card(Zoo(zoo))
    console.show({"card": str(path)}, str(path), as_json)
