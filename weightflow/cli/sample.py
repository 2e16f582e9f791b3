"""From words to networks: sample."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import Device, Solver

if TYPE_CHECKING:
    from weightflow.generator.generator import Flow, Neighbour
    from weightflow.generator.populations import Made
    from weightflow.text import Prompt

app = typer.Typer()
NEAREST = 3


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a saved generator.")],
    out: Annotated[Path, typer.Option(help="Folder of the generated networks, a zoo.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes in logit order, separated by commas: words, NAME = WORDS | OTHER WORDS, or "
            "NAME = image:FILE | FILE where the run's text encoder is a CLIP, NAME = CLASS or CLASS and other where the "
            "run was trained on such tasks."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with one prompt a line; - reads standard input and answers line by line."),
    ] = None,
    count: Annotated[int, typer.Option(help="Networks for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first network; the next one has the next seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps; the run's own by default.")] = None,
    method: Solver = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; 1 disables it.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Scale of the noise: below 1, networks of a prompt are more accurate and more alike."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the nearest known classes of each class, and how far.")
    ] = False,
    device: Device = "cpu",
    as_json: bool = typer.Option(
        False, "--json", help="One line of JSON a prompt, as soon as it is on disk."
    ),
    quiet: bool = console.QUIET,
) -> None:
    """Generate networks from words.

    Results come as they are finished; Ctrl-C keeps those as a sound zoo.

    Example: [bold]weightflow sample runs/digits --classes "three, seven, nine" --count 8 --out nets[/]
    """
    from weightflow.generator.generator import Flow
    from weightflow.generator.populations import generate_zoo

    flow = Flow(run, device)
    asked = _asked(classes, prompts, flow.header.zoo.classes)
    said = {"method": method, "steps": steps, "guidance": guidance, "noise": noise}
    changes: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    config = dataclasses.replace(flow.sampling, **changes)
    many, told, done, begin = prompts is not None, set[str](), 0, time.monotonic()
    kept = f"what was finished is in {out}, a sound zoo; run the same command to replace it"
    with console.on_interrupt(kept), closing(generate_zoo(flow, asked, count, seed, config, out)) as making:
        for made in making:
            done += 1
            near = flow.neighbours(made.prompt, NEAREST)
            _warn(flow, made.prompt, near, told)
            if as_json:
                print(
                    json.dumps(_line(made, out) | ({"nearest": _plain(near)} if explain else {})), flush=True
                )
                continue
            if explain or (many and not quiet):
                print(f"{_span(made.ids)}: {', '.join(made.prompt.classes)}", flush=True)
            if explain:
                print("\n".join(_explained(near)), flush=True)
    seconds = time.monotonic() - begin
    text = (
        f"{out}: {done * count} networks for {done} prompts, {done * count / seconds:.0f} networks per second"
    )
    console.say(text) if as_json else console.show({}, text, False)


def _line(made: Made, out: Path) -> dict[str, Any]:
    return {
        "zoo": str(out),
        "classes": made.prompt.classes,
        "networks": len(made.ids),
        "ids": made.ids,
        "seeds": made.seeds,
        "seconds": round(made.seconds, 6),
    }


def _span(ids: tuple[str, ...]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def _asked(classes: str | None, source: Path | None, only: tuple[str, ...]) -> Iterable[Prompt]:
    """A list where all prompts are there, an iterator where they come one by one.

    `only` are the classes of a run whose networks all have one task: they go without saying.
    """
    from weightflow.generator.populations import prompts_in, read_prompts
    from weightflow.text import Prompt

    if only and classes is None and source is None:
        return [Prompt(only)]
    if (classes is None) == (source is None):
        raise InputError('give either --classes "three, seven, nine" or --prompts FILE')
    if classes is not None:
        return [Prompt.parse(classes)]
    if str(source) == "-":
        return prompts_in(sys.stdin, "standard input")
    return read_prompts(Path(str(source)))


def _warn(flow: Flow, prompt: Prompt, near: list[Neighbour], told: set[str]) -> None:
    """Say once of each class that it is not known; unions of known classes, and `other`, are."""
    from weightflow.text.description import group_of

    names = flow.header.data.classes if flow.header.data.groups else ()
    told |= {d.name for d in prompt.descriptions if group_of(d, names) is not None}
    for found in near:
        if found.described not in flow.known_classes and found.described not in told:
            told.add(found.described)
            console.say(
                f"'{found.described}' is not a class this run has seen; nearest: '{found.nearest}' "
                f"(cosine {found.cosine:.2f}). Accuracy is not promised"
            )


def _explained(near: list[Neighbour]) -> Iterator[str]:
    for described in dict.fromkeys(found.described for found in near):
        own = [f"'{n.nearest}' {n.cosine:.2f}" for n in near if n.described == described]
        yield f"  {described}: nearest known classes, by cosine: {', '.join(own)}"


def _plain(near: list[Neighbour]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(found) for found in near]
