"""`weightflow fuse`, `enhance` and `transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.options import Device

if TYPE_CHECKING:
    from weightflow.applications.strength_sweep import StrengthResult
    from weightflow.applications.transfer import Accuracies

app = typer.Typer()

Sweep = Annotated[
    bool,
    typer.Option("--sweep", help="Try strengths from 0 to 1 and keep the best on validation images."),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="With --sweep: plot accuracy against strength to this file (.png, .svg or .pdf)."),
]
SeedOfNoise = Annotated[int, typer.Option(help="Seed of the noise.")]


@app.command()
def fuse(
    networks: Annotated[list[Path], typer.Argument(help="Network files, two or more; classes may overlap.")],
    run: Annotated[Path, typer.Option(help="Folder of the run whose generator is used.")],
    out: Annotated[Path, typer.Option(help="File of the fused network.")],
    strength: Annotated[
        float, typer.Option(help="0 averages the networks, 1 generates from the class names alone.")
    ] = 1.0,
    sweep: Sweep = False,
    plot: Plot = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes in logit order, where the files do not contain them; once per network, in the same order."
        ),
    ] = None,
    trained: Annotated[
        bool,
        typer.Option(
            "--trained", help="Also train a network on the union, with the training recipe of the zoo."
        ),
    ] = False,
    seed: SeedOfNoise = 0,
    device: Device = "cpu",
    as_json: bool = console.JSON,
) -> None:
    """Generate one network for the union of the classes of several networks.

    Prints its test accuracy beside that of weight averages (plain, Git Re-Basin, in the frame of the run) and of
    their ensemble.

    Example: [bold]weightflow fuse nets/*.safetensors --run run --out union.safetensors[/]
    """
    from canon.io.checkpoint import check_suffix
    from canon.io.files import require_folder
    from canon.io.folders import require_apart
    from weightflow.applications.fuse import fuse as fuse_networks
    from weightflow.applications.fuse import union_of
    from weightflow.applications.fusion_baselines import baseline_accuracies
    from weightflow.device import computing_on
    from weightflow.evaluation.chance import chance
    from weightflow.generator.generator import Flow
    from weightflow.text import Prompt
    from weightflow.zoo.network_file import read_network, write_network

    check_suffix(out)
    require_folder(out)
    require_apart(out, run, *networks)
    _check_plot(plot, sweep)
    flow = Flow(run, device)
    if classes is not None and len(classes) != len(networks):
        raise InputError(
            f"--classes is given {console.many(len(classes), 'time')} for {console.many(len(networks), 'network')}; give it once a network, in order"
        )
    given = [
        read_network(
            path,
            flow.architecture,
            flow.header.zoo.dataset,
            Prompt.parse(own, flow.known_classes) if own else None,
        )
        for path, own in zip(networks, classes or [""] * len(networks), strict=True)
    ]
    task = union_of(flow, given)
    with computing_on(device):
        tried = _tried(lambda s: fuse_networks(flow, given, s, seed), flow, task, strength, sweep)
        others = baseline_accuracies(flow, given, task, trained)
    made = _best(tried)
    by_chance = chance([task])
    figures = {"fused": made.test, **others, "chance": by_chance}
    write_network(out, flow.architecture, made.state, task.classes)
    _draw(tried, plot, by_chance)
    found = {"network": str(out), "classes": task.classes, "strength": made.strength, "accuracy": figures}
    lines = [f"{out}: {', '.join(task.classes)}, strength {made.strength:g}; test accuracy"]
    lines += [f"  {name.replace('_', ' '):22}{100 * value:5.1f} %" for name, value in figures.items()]
    console.show(found | _swept(tried), "\n".join([*lines, *_table(tried)]), as_json)


@app.command()
def enhance(
    network: Annotated[Path, typer.Argument(help="A network file of the run's architecture.")],
    run: Annotated[Path, typer.Option(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="File of the enhanced network.")],
    strength: Annotated[float, typer.Option(help="0 keeps the network, 1 generates a new one.")] = 0.5,
    sweep: Sweep = False,
    plot: Plot = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes in logit order, where the file does not contain them.")
    ] = None,
    seed: SeedOfNoise = 0,
    device: Device = "cpu",
    as_json: bool = console.JSON,
) -> None:
    """Improve a weak network: add noise up to t = 1 - strength, then denoise it with its class names (SDEdit).

    Its units are first aligned to the frame of the run. Prints the test accuracy before and after.

    Example: [bold]weightflow enhance a.safetensors --run run --out b.safetensors[/]
    """
    from canon.io.checkpoint import check_suffix
    from canon.io.files import require_folder
    from canon.io.folders import require_apart
    from weightflow.applications.enhance import enhance as enhance_networks
    from weightflow.device import computing_on
    from weightflow.evaluation.chance import chance
    from weightflow.evaluation.evaluate import evaluate_networks
    from weightflow.generator.generator import Flow
    from weightflow.text import Prompt
    from weightflow.zoo.network_file import read_network, write_network

    check_suffix(out)
    require_folder(out)
    require_apart(out, run, network)
    _check_plot(plot, sweep)
    flow = Flow(run, device)
    prompt = None if classes is None else Prompt.parse(classes, flow.known_classes)
    given = read_network(network, flow.architecture, flow.header.zoo.dataset, prompt)
    task = given.task
    with computing_on(device):
        tried = _tried(
            lambda s: enhance_networks(flow, given.state, [task], s, [seed]), flow, task, strength, sweep
        )
        before = float(evaluate_networks(flow.architecture, given.state, [task]).accuracy)
    made = _best(tried)
    write_network(out, flow.architecture, made.state, given.prompt.classes)
    by_chance = chance([task])
    _draw(tried, plot, by_chance)
    found = {
        "network": str(out),
        "strength": made.strength,
        "accuracy": {"before": before, "after": made.test, "chance": by_chance},
    }
    line = (
        f"{out}: test accuracy {100 * before:.1f} % before, {100 * made.test:.1f} % after "
        f"(strength {made.strength:g}, chance {100 * by_chance:.1f} %)"
    )
    console.show(found | _swept(tried), "\n".join([line, *_table(tried)]), as_json)


@app.command()
def transfer(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    dataset: Annotated[str, typer.Option(help="Other data, for instance [bold]fashion_mnist?size=8[/].")],
    classes: Annotated[str, typer.Option(help="Classes of that data set, as many as the networks have.")],
    epochs: Annotated[str, typer.Option(help="Numbers of epochs, separated by commas.")] = "0,1,5",
    images: Annotated[int | None, typer.Option(help="Training images per class; all by default.")] = None,
    zoo: Annotated[
        Path | None, typer.Option(help="A zoo whose trained networks are compared as initializations too.")
    ] = None,
    count: Annotated[int, typer.Option(help="Maximum number of networks of each kind.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of all of them.")] = 3e-3,
    device: Device = "cpu",
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Fine-tune networks on other data, compared with random initializations and networks of a zoo.

    Ctrl-C prints the figures of the kinds that are finished.

    Example: [bold]weightflow transfer nets --dataset mnist --classes "one, two"[/]
    """
    from weightflow.applications.transfer import random_starts, starts_of
    from weightflow.applications.transfer import transfer as transfer_networks
    from weightflow.batched.config import TrainingRecipe
    from weightflow.batched.tasks import Task
    from weightflow.device import computing_on
    from weightflow.evaluation.chance import chance
    from weightflow.text import Prompt
    from weightflow.zoo.store import Zoo

    budgets = _epochs(epochs)
    task = Task(dataset, Prompt.parse(classes).classes)
    given, recipe = Zoo(networks), TrainingRecipe(learning_rate=learning_rate)
    generated = starts_of(given, len(task.classes), count)
    many = len(next(iter(generated.values())))
    starts = {"generated": generated, "random": random_starts(given.architecture, many, recipe)}
    if zoo is not None:
        other = Zoo(zoo)
        if other.architecture != given.architecture:
            raise InputError(
                f"{zoo} holds {other.architecture.to_json()}; {networks} holds {given.architecture.to_json()}"
            )
        starts["zoo"] = starts_of(other, len(task.classes), many)
    found: Accuracies = {}

    def show() -> None:
        figures = {
            name: {e: {"mean": float(a.mean()), "std": float(a.std(correction=0))} for e, a in own.items()}
            for name, own in found.items()
        }
        lines = [f"{dataset}: {', '.join(task.classes)}; test accuracy, %, chance {100 * chance([task]):.1f}"]
        lines.append("  epochs" + "".join(f"{name:>16}" for name in figures))
        for e in budgets:
            cells = [f"{100 * own[e]['mean']:.1f} ± {100 * own[e]['std']:.1f}" for own in figures.values()]
            lines.append(f"  {e:6}" + "".join(f"{cell:>16}" for cell in cells))
        told = {"classes": task.classes, "networks": many, "accuracy": figures}
        console.show(told, "\n".join(lines), as_json)

    try:
        with computing_on(device), console.progress(None, "training", quiet=quiet) as steps:
            transfer_networks(
                given.architecture,
                starts,
                task,
                budgets,
                recipe,
                images,
                steps.advance,
                steps.expect,
                found.__setitem__,
            )
    except (KeyboardInterrupt, Exception) as stop:
        if found:
            show()
            stop.add_note(f"the figures are those of {', '.join(found)}; {', '.join(starts)} were asked for")
        raise
    show()


def _epochs(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--epochs is '{text}'; write whole numbers from 0, for instance 0,1,5")
    return [int(part) for part in parts]


def _tried(make: Any, flow: Any, task: Any, strength: float, sweep: bool) -> list[StrengthResult]:
    from weightflow.applications.strength_sweep import STRENGTHS
    from weightflow.applications.strength_sweep import sweep as try_strengths

    return try_strengths(make, flow.architecture, task, STRENGTHS if sweep else (strength,))


def _best(tried: list[StrengthResult]) -> StrengthResult:
    from weightflow.applications.strength_sweep import best

    return best(tried)


def _check_plot(path: Path | None, sweep: bool) -> None:
    from canon.io.files import require_folder
    from canon.merging.plotting import check_format

    if path is not None:
        check_format(path)
        require_folder(path)
        if not sweep:
            raise InputError("--plot draws accuracy against strength; it needs --sweep")


def _draw(tried: list[StrengthResult], path: Path | None, chance: float) -> None:
    from weightflow.applications.strength_sweep import plot

    if path is not None:
        plot(tried, path, chance)


def _swept(tried: list[StrengthResult]) -> dict[str, Any]:
    rows = [{"strength": t.strength, "validation": t.validation, "test": t.test} for t in tried]
    return {"sweep": rows} if len(rows) > 1 else {}


def _table(tried: list[StrengthResult]) -> list[str]:
    if len(tried) < 2:
        return []
    rows = [f"  {t.strength:8.1f}  {100 * t.validation:10.1f}  {100 * t.test:5.1f}" for t in tried]
    return ["  strength  validation   test, %", *rows]
