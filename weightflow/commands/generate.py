"""From words to networks: sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from canon import console
from canon.errors import InputError

app = typer.Typer()


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder of the generated networks, a zoo.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes in logit order, separated by commas: words, NAME = WORDS | OTHER WORDS, or "
            "NAME = image:FILE | FILE where the run's text encoder is a CLIP."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with one prompt a line; - reads standard input.")
    ] = None,
    count: Annotated[int, typer.Option(help="Networks for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first network; the next one has the next seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps; the run's own by default.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="euler, midpoint, heun, rk4, dopri5, ddim or ancestral; the run's own by default."),
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Above 1 follows the prompt harder.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the nearest known class of each class.")
    ] = False,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Generate networks from words.

    Example: [bold]weightflow sample runs/digits --classes "three, seven, nine" --count 8 --out nets[/]
    """
    from weightflow.population import generate_zoo, read_prompts
    from weightflow.sample import Flow

    if count < 1:
        raise InputError(f"--count is {count}; ask for 1 network or more")
    flow = Flow(run)
    asked = read_prompts(classes, prompts, flow.header.zoo.classes)
    said = {"method": method, "steps": steps, "guidance": guidance}
    changes: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    config = replace(flow.sampling, **changes)
    neighbours = [n for prompt in asked for n in flow.neighbours(prompt)]
    unknown = {n.described: n for n in neighbours if n.described not in flow.known_classes}
    for near in unknown.values():
        console.say(
            f"'{near.described}' is not a class this run has seen; nearest: '{near.nearest}' "
            f"(cosine {near.cosine:.2f}). Accuracy is not promised"
        )
    if explain:
        for near in {n.described: n for n in neighbours}.values():
            console.say(f"{near.described}: nearest known class '{near.nearest}', cosine {near.cosine:.2f}")
    with console.progress(len(asked) * count, "generating", quiet=quiet) as bar:
        made = generate_zoo(flow, asked, count, seed, config, out, bar.advance)
    rate = made["networks"] / made["seconds"]
    text = f"{out}: {made['networks']} networks for {len(asked)} prompts, {rate:.0f} networks per second"
    console.show(made, text, as_json)
