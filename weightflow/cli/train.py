"""`weightflow canonicalize` and `train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from weightflow.cli.options import (
    Descriptions,
    Device,
    Executor,
    PathName,
    PresetName,
    Seed,
    Workers,
    settings_like,
)
from weightflow.cli.own_code import settings_of

if TYPE_CHECKING:
    from weightflow.training.trainer import Progress, Trainer

app = typer.Typer()


@app.command()
def canonicalize(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.")],
    out: Annotated[Path, typer.Option(help="Folder of the canonical zoo.")],
    executor: Executor = "local",
    workers: Workers = 1,
    device: Device = "cpu",
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Align all networks of a zoo: balance scales, then match units to the mean network.

    The function of each network is unchanged. The mean network (the frame) is stored with the zoo.
    """
    from weightflow.device import computing_on, usable_device
    from weightflow.executors import make_executor
    from weightflow.zoo import unfinished
    from weightflow.zoo.canonicalize import canonicalize_zoo, is_canonical_form_of
    from weightflow.zoo.store import FRAME, Zoo

    opened, place = Zoo(zoo), usable_device(device)
    crew = make_executor(executor, workers, str(place))
    if is_canonical_form_of(out, opened):
        unfinished.finish(out)  # killed after the last file was written
        console.show({"zoo": str(out), "done_before": True}, f"{out}: already canonical", as_json)
        return
    try:
        with (
            computing_on(place),
            console.progress(len(opened), "aligning networks", quiet=quiet) as steps,
        ):
            canonicalize_zoo(opened, out, steps.advance, crew)
    except (KeyboardInterrupt, Exception) as stop:
        kept = f"the frame and {steps.taken} of {len(opened)} networks are in {out}"
        nothing = "nothing was written; run the same command again"
        framed = (out / FRAME).exists()
        stop.add_note(f"{kept}; run the same command again to go on" if framed else nothing)
        raise
    console.show(
        {"zoo": str(out), "networks": len(opened)},
        f"{out}: {console.many(len(opened), 'network')} in one frame",
        as_json,
    )


@app.command()
def train(
    zoo: Annotated[Path, typer.Argument(help="Zoo folder; run `weightflow canonicalize` on it first.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[PresetName, typer.Option(help="Default settings.")] = "weightflow",
    objective: Annotated[
        PathName | None, typer.Option(help="Path from noise to networks; the preset's own by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    descriptions: Descriptions = None,
    seed: Seed = None,
    device: Device = "cpu",
    shard: Annotated[
        bool,
        typer.Option(
            "--shard", help="Under torchrun: split weights, gradients and moments over the processes (FSDP2)."
        ),
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[tensorboard|wandb|trackio|mlflow]",
            help="Send metrics to a logger too; metrics.jsonl is written in any case. Repeatable.",
        ),
    ] = None,
    settings: Annotated[list[str] | None, settings_like("steps=500")] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Train a generator on a zoo. [bold]--resume[/] continues a stopped run bit for bit.

    With --resume, --set steps=N extends the run; other settings cannot change.

    Under torchrun, processes share each batch (docs/scaling.md).

    Example: [bold]weightflow train zoos/canonical --out runs/digits[/]
    """
    from weightflow import config
    from weightflow.api.generation import start_or_resume
    from weightflow.text.class_words import read_class_words
    from weightflow.training import run_store as runs
    from weightflow.training import trainer as training
    from weightflow.training.loggers import logging_to, require
    from weightflow.training.processes import Processes
    from weightflow.zoo.store import Zoo

    require(list(log or []))
    opened, processes = Zoo(zoo), Processes.join(shard)
    said: dict[str, Any] = {"seed": seed, "objective": {"path": objective}}
    if descriptions:
        said["descriptions"] = {n: list(words) for n, words in read_class_words(descriptions).items()}
    changes = config.replace_nested(settings_of(settings), said)
    begun = runs.read_header(out).config.steps if resume and training.is_begun(out) else None
    trainer = start_or_resume(opened, out, preset, changes, resume, device, processes)
    total, before = trainer.config.steps, trainer.progress.step
    if begun not in (None, total) and processes.first:
        console.say(
            f"{out} goes on to step {total} (before: {begun}); from step {before} the learning rate follows the "
            f"schedule of {console.many(total, 'step')}"
        )
    loggers: list[str] = list(log or []) if processes.first else []
    with (
        logging_to(loggers, out, trainer.config) as metrics,
        console.progress(total, "training", done=before, quiet=quiet or not processes.first) as steps,
    ):
        done = _until_stopped(trainer, steps.advance, metrics, f"weightflow train {zoo} --out {out} --resume")
    if not processes.first:
        return
    result = {"run": str(out), "steps": done.step, "best_step": done.best_step, "held_out": done.best}
    early = (
        ""
        if done.step >= total
        else f" of {total}, stopped early: no gain in {console.many(done.stale, 'evaluation')}"
    )
    line = f"{out}: {console.many(done.step, 'step')}{early}, held-out loss {done.best:.4f} at step {done.best_step}"
    console.show(result, line, as_json)


def _until_stopped(
    trainer: Trainer,
    advance: Callable[[int, str], None],
    metrics: Callable[[Mapping[str, int | float]], None],
    again: str,
) -> Progress:
    """Train; Ctrl-C, SIGTERM and SIGHUP stop after the current step, and the state is saved."""
    try:
        with console.deferred() as stop:
            return trainer.run(advance, stop, metrics)
    except (KeyboardInterrupt, Exception) as error:
        error.add_note(f"the state of step {trainer.saved} is saved in {trainer.folder}; go on with: {again}")
        raise
