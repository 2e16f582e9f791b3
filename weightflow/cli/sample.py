"""`weightflow sample`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import Device, Executor, Solver, Workers

if TYPE_CHECKING:
    from weightflow.generator.generator import Flow, Neighbour
    from weightflow.generator.populations import SampledPrompt
    from weightflow.text import Prompt

app = typer.Typer()
NEAREST, MOST_WARNED = 3, 20


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a saved generator.")],
    out: Annotated[Path, typer.Option(help="Folder of the generated networks, a zoo.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes in logit order, separated by commas: words, NAME = WORDS | OTHER WORDS, or "
            "NAME = image:FILE | FILE where the run has a backbone or a CLIP, NAME = CLASS or CLASS and other where the "
            "run was trained on such tasks."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with one prompt a line; - reads standard input and answers line by line."),
    ] = None,
    count: Annotated[int, typer.Option(help="Number of networks per prompt.")] = 1,
    seed: Annotated[
        int, typer.Option(help="Seed of the first network; the others have consecutive seeds.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Number of solver steps; the setting of the run by default.")
    ] = None,
    method: Solver = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; 1 disables it.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Scale of the noise; below 1, networks of one prompt are more accurate and less diverse."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show the nearest known classes of each class and their cosine similarity."
        ),
    ] = False,
    device: Device = "cpu",
    executor: Executor = "local",
    workers: Workers = 1,
    as_json: bool = typer.Option(
        False, "--json", help="Print one line of JSON per prompt when its networks are on disk."
    ),
    quiet: bool = console.QUIET,
) -> None:
    """Generate networks from words.

    Networks are written as they are finished; Ctrl-C keeps those as a valid zoo.

    Example: [bold]weightflow sample runs/digits --classes "three, seven" --out nets[/]
    """
    from weightflow.executors import make_executor
    from weightflow.generator.generator import Flow
    from weightflow.generator.populations import generate_zoo

    flow, refused = Flow(run, device), list[int]()
    crew = make_executor(executor, workers, device)
    asked = _asked(flow, classes, prompts, refused, as_json)
    said = {"method": method, "steps": steps, "guidance": guidance, "noise": noise}
    changes: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    config = dataclasses.replace(flow.sampling, **changes)
    many, done, begin = prompts is not None, 0, time.monotonic()
    converted: set[str] = set()
    is_list = isinstance(asked, Sequence)
    total = count * len(asked) if isinstance(asked, Sequence) else None
    shown = quiet or as_json or many or explain  # lines of their own
    with (
        _keeping(out) as kept,
        console.progress(total, "generating networks", quiet=shown) as bar,
        # reading a line blocks: a signal must interrupt it
        console.deferred() if is_list else nullcontext(lambda: False) as stop,
    ):

        def advance(networks: int) -> None:
            kept.append(networks)
            bar.advance(networks)

        warned = _warned(flow, asked)
        waiting = list(warned) if is_list else warned
        with closing(generate_zoo(flow, waiting, count, seed, config, out, advance, stop, crew)) as making:
            for made in making:
                done += 1
                near = flow.neighbours(made.prompt, NEAREST) if explain else []
                _say_converted(flow, converted)
                if as_json:
                    line = _line(made, out) | ({"nearest": _plain(near)} if explain else {})
                    print(json.dumps(line), flush=True)
                    continue
                if explain or (many and not quiet):
                    print(f"{_span(made.ids)}: {', '.join(made.prompt.classes)}", flush=True)
                if explain:
                    print("\n".join(_explained(near)), flush=True)
    seconds = time.monotonic() - begin
    text = (
        f"{out}: {console.many(done * count, 'network')} for {console.many(done, 'prompt')}, "
        f"{done * count / seconds:.0f} networks per second"
    )
    if refused:
        console.say(f"{console.many(len(refused), 'line')} not answered: {', '.join(map(str, refused[:10]))}")
    if done:
        console.say(text) if as_json else console.show({}, text, False)
    if refused:
        raise typer.Exit(1)


@contextmanager
def _keeping(out: Path) -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM, SIGHUP and errors say how many networks are on disk; the caller appends their numbers."""
    from weightflow.zoo.store import manifest_version

    kept: list[int] = []
    before = manifest_version(out)
    try:
        yield kept
    except (KeyboardInterrupt, Exception) as stop:
        if not kept:
            stop.add_note("nothing was written; run the same command again")
        elif manifest_version(out) != before:
            networks = console.many(sum(kept), "network")
            stop.add_note(f"{networks} in {out}, a sound zoo; run the same command to replace it")
        else:
            state = "is not finished" if before is None else "is as it was"
            stop.add_note(f"{out} {state}; run the same command again, which begins anew")
        raise


def _line(made: SampledPrompt, out: Path) -> dict[str, Any]:
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


def _asked(
    flow: Flow, classes: str | None, source: Path | None, refused: list[int], as_json: bool
) -> Iterable[Prompt]:
    """The prompts: a list for a file or option, an iterator for standard input.

    Where all networks of a run have one task, the classes may be left out. Lines that cannot be answered are
    appended to `refused`.
    """
    from weightflow.generator.populations import read_prompts
    from weightflow.text import Prompt

    only, known = flow.header.zoo.classes, flow.known_classes
    if only and classes is None and source is None:
        return [Prompt(only)]
    if (classes is None) == (source is None):
        raise InputError('give either --classes "three, seven, nine" or --prompts FILE')
    if classes is not None:
        return [Prompt.parse(classes, known)]
    if str(source) == "-":
        return _answerable(flow, refused, as_json)
    return read_prompts(Path(str(source)), known)


def _answerable(flow: Flow, refused: list[int], as_json: bool) -> Iterator[Prompt]:
    """The prompts of standard input that the run supports; for others an error line is printed."""
    from weightflow.text import Prompt

    found = False
    for number, line in enumerate(_bounded_lines(sys.stdin.readline), start=1):
        text = line.removeprefix("\ufeff").strip()
        if not text:
            continue
        found = True
        try:
            prompt = Prompt.parse(text, flow.known_classes)
            flow.prompts([prompt])
        except InputError as error:
            refused.append(number)
            if as_json:
                print(json.dumps({"line": number, "prompt": text, "error": str(error)}), flush=True)
            else:
                console.say(f"error: standard input, line {number}: {error}")
            continue
        yield prompt
    if not found:
        raise InputError("standard input holds no prompt; write one a line, for instance: three, seven, nine")


def _bounded_lines(readline: Callable[[int], str]) -> Iterator[str]:
    """The lines of a stream, of longer ones the first `LONGEST` characters and one more: a line may never end."""
    from weightflow.text.prompt import LONGEST

    while line := readline(LONGEST + 1):
        part = line
        while not part.endswith("\n") and (part := readline(1 << 20)):
            pass
        yield line


def _warned(flow: Flow, asked: Iterable[Prompt]) -> Iterator[Prompt]:
    """The prompts; before each, once of each class that it is not known. Unions of known classes, and `other`, are."""
    from weightflow.text.class_words import names_of_words
    from weightflow.text.description import group_of, misspelt

    known = {*flow.known_classes, *names_of_words(flow.header.data.words)}
    names, told = flow.header.data.classes if flow.header.data.groups else (), set[str]()
    for prompt in asked:
        described = {
            d.name: d
            for d in prompt.descriptions
            if d.name not in told and not all(word in known for word in d.words or [d.name])
        }
        if not described or len(told) >= MOST_WARNED:
            yield prompt
            continue
        flow.prompts([prompt])  # one that is refused needs no warning
        near = flow.neighbours(prompt)
        if not near:  # no words are compared
            told |= described.keys()
        for found in near:
            own = described.get(found.described)
            if own is None or len(told) >= MOST_WARNED:
                continue
            told.add(found.described)
            if group_of(own, names) is not None:
                continue
            meant = next(filter(None, (misspelt(word, flow.known_classes) for word in own.words)), None)
            told_of = f"nearest in meaning: '{found.nearest}' (cosine {found.cosine:.2f})"
            if meant is not None:
                told_of = f"did you mean '{meant}'? It is read as written, {told_of}"
            more = "; no more of such classes are named" if len(told) == MOST_WARNED else ""
            console.say(
                f"'{found.described}' is not a class this run has seen; {told_of}. Accuracy is not promised{more}"
            )
        yield prompt


def _say_converted(flow: Flow, told: set[str]) -> None:
    """Say once of pictures that were not as the run's images are."""
    new = {file: what for file, what in flow.converted_pictures.items() if file not in told}
    if new:
        told.update(new)
        first, what = next(iter(new.items()))
        console.say(
            f"{console.many(len(new), 'picture')} converted to the run's images, the first is {first} ({what})"
        )


def _explained(near: list[Neighbour]) -> Iterator[str]:
    for described in dict.fromkeys(found.described for found in near):
        own = [f"'{n.nearest}' {n.cosine:.2f}" for n in near if n.described == described]
        yield f"  {described}: nearest known classes, by cosine: {', '.join(own)}"


def _plain(near: list[Neighbour]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(found) for found in near]
