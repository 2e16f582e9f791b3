"""`weightflow zoo`: build, import, inspect, verify, card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import (
    DATASETS,
    RECIPES,
    Descriptions,
    Device,
    Download,
    Executor,
    LineageName,
    Seed,
    Workers,
    settings_like,
)
from weightflow.cli.own_code import settings_of

app = typer.Typer(
    help="Populations of trained networks: build, import, inspect, verify.", no_args_is_help=True
)


@app.command("build")
def build(
    recipe: Annotated[str, typer.Argument(help=f"A TOML file, or one of: {RECIPES}.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    descriptions: Descriptions = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Text encoder of the generator; classes that it cannot represent are refused before training."
        ),
    ] = None,
    download: Download = False,
    executor: Executor = "local",
    workers: Workers = 1,
    device: Device = "cpu",
    seed: Seed = None,
    settings: Annotated[list[str] | None, settings_like("training.steps=500")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a population of networks. Valid shards are kept; missing ones are trained.

    Example: [bold]weightflow zoo build digits --out zoos/digits[/]
    """
    from weightflow import config
    from weightflow.device import computing_on, usable_device
    from weightflow.registry import announce
    from weightflow.text.class_words import read_class_words
    from weightflow.zoo.builders.parallel import build_with
    from weightflow.zoo.recipe import read_recipe
    from weightflow.zoo.store import Zoo

    said: dict[str, Any] = {"seed": seed, "encoder": announce(encoder) if encoder else None}
    if descriptions:
        said["descriptions"] = {n: list(words) for n, words in read_class_words(descriptions).items()}
    changes = config.replace_nested(settings_of(settings), said)
    plan, device = read_recipe(recipe, changes), str(usable_device(device))
    if download:
        from weightflow.datasets.download import fetch

        console.say(f"data in {fetch(plan.dataset)}")
    for remark in plan.data.remarks:
        console.say(f"data set '{plan.dataset}': {remark}")
    total = plan.tasks.networks
    resume = f"finished shards are kept in {out}; run the same command again to go on"
    with (
        computing_on(device),
        console.on_interrupt(resume),
        console.progress(total, "training networks", quiet=quiet) as steps,
    ):
        trained = build_with(executor, plan, out, steps.advance, workers, device)
    result = {"zoo": str(out), "networks": len(Zoo(out)), "trained_now": trained}
    console.show(result, f"{out}: {console.many(len(Zoo(out)), 'network')}, {trained} trained now", as_json)


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
        sound = f"{zoo}: {console.many(len(opened), 'network')} in {console.many(len(opened.manifest['shards']), 'shard')}, all sound"
    console.show({"sound": not problems, "problems": problems}, "\n".join(problems) or sound, as_json)
    if problems:
        raise typer.Exit(1)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of checkpoints of one architecture.")],
    out: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe with the architecture and data set of the checkpoints.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What builds their module: an architecture's name, or your own file.py:function or "
            "package.module:function; its arguments are set in architecture.arguments."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help=f"Data set; the recipe's by default: {DATASETS}.")
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            help="How the networks' inputs were prepared, (x / divisor - mean) / std, one number or one a channel: "
            "[bold]divisor=255&mean=0.49,0.48,0.45&std=0.25[/]. The data set's own by default."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes of all networks in logit order, separated by commas.")
    ] = None,
    classes_from: Annotated[
        str | None,
        typer.Option(
            help="Classes of each network: a .csv (file,class,class,...) or .json ({file: \\[classes]}), or file-names "
            "for files such as cat-dog-seed3.pt. Without it, classes.csv or classes.json beside the files."
        ),
    ] = None,
    descriptions: Descriptions = None,
    lineage: Annotated[LineageName, typer.Option(help="Origin of the networks.")] = "imported",
    settings: Annotated[list[str] | None, settings_like("training.steps=500")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Create a zoo from a folder of checkpoints. Files that do not fit are listed.

    Example: [bold]weightflow zoo import files --dataset digits --out zoos/mine[/]

    Example: [bold]weightflow zoo import nets --model a.py:f --dataset digits --out zoo[/]
    """
    from weightflow.registry import announce
    from weightflow.text import Prompt
    from weightflow.text.class_words import read_class_words
    from weightflow.zoo.import_checkpoints import (
        architecture_of,
        checkpoint_files,
        import_zoo,
        own_architecture,
        prepared_name,
    )
    from weightflow.zoo.import_classes import classes_of_files
    from weightflow.zoo.recipe import read_recipe
    from weightflow.zoo.store import Zoo
    from weightflow.zoo.unfinished import MARK

    files = checkpoint_files(folder)
    changes = settings_of(settings)
    plan = read_recipe(recipe, changes) if recipe else None
    name = announce(dataset) if dataset else plan.dataset if plan else None
    if name is None:
        raise InputError("name the data set whose classes they tell apart: --dataset, or --recipe")
    if classes and classes_from:
        raise InputError("--classes are those of all networks, --classes-from those of each; give one")
    name = prepared_name(name, preprocessing)
    asked = Prompt.parse(classes).classes if classes else classes_of_files(files, folder, classes_from, name)
    if model:
        arguments = changes.get("architecture", {}).get("arguments", {})
        architecture = architecture_of(announce(model), arguments, files, name, asked)
    else:
        architecture = plan.make_architecture() if plan else own_architecture(files)
    words = read_class_words(descriptions) if descriptions else plan.descriptions if plan else {}
    try:
        with console.progress(len(files), "reading networks", quiet=quiet) as steps:
            count = import_zoo(files, out, architecture, name, asked, lineage, words, progress=steps.advance)
    except (KeyboardInterrupt, Exception) as stop:
        if (out / MARK).exists():
            stop.add_note(f"{out} is not finished; run the same command again, which begins anew")
        raise
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
    """Write the data-set card (README.md), so that the folder can be published."""
    from weightflow.zoo.dataset_card import write_card
    from weightflow.zoo.store import Zoo

    path = write_card(Zoo(zoo))
    console.show({"card": str(path)}, str(path), as_json)
