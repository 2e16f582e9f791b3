"""`weightflow evaluate` and `report`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError
from canon.io.folders import require_place, writing_into
from weightflow.cli.options import Device, Executor, Solver, Workers

if TYPE_CHECKING:
    from weightflow.report.parts import Parts

app = typer.Typer()


@app.command()
def evaluate(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    device: Device = "cpu",
    executor: Executor = "local",
    workers: Workers = 1,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Accuracy and calibration on real test images, beside chance; by split, class and prompt.

    Chance is the share of the largest class. Ctrl-C prints the results of the networks evaluated so far.
    """
    from weightflow.api.evaluation import evaluate as evaluate_networks
    from weightflow.cli.report_tables import evaluation_lines
    from weightflow.zoo.store import Zoo

    opened = Zoo(networks)
    with console.deferred() as stop:
        with console.progress(len(opened), "evaluating networks", quiet=quiet) as steps:
            found = evaluate_networks(
                opened, device=device, executor=executor, workers=workers, progress=steps.advance, stop=stop
            )
        console.show(found, "\n".join(evaluation_lines(found)), as_json)
        judged = f"{found['judged']} of {len(opened)}"
        stop.notes.append(f"{judged} networks were judged; the figures are of those")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; the run's own by default.")] = None,
    limit: Annotated[
        int, typer.Option(help="Maximum number of tasks per split, and of training networks to compare with.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the generated networks.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Number of solver steps; the setting of the run by default.")
    ] = None,
    method: Solver = None,
    executor: Executor = "local",
    workers: Annotated[int, typer.Option(help="Number of baselines computed in parallel.")] = 1,
    device: Device = "cpu",
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Compare a run with trained networks and baselines; writes report.json and report.html.

    If it was interrupted, run the same command again: finished parts are kept.
    """
    from weightflow.api.evaluation import report as measure
    from weightflow.cli.report_tables import rich_tables
    from weightflow.generator.generator import Flow
    from weightflow.report.parts import Parts

    folder = out or run
    is_place = out is not None or run.is_dir()  # and no name on the hub
    if is_place:
        require_place(folder)
    if limit < 1:
        raise InputError(f"--limit is {limit}; it must be at least 1")
    asked: dict[str, Any] = {
        key: value for key, value in (("method", method), ("steps", steps)) if value is not None
    }
    sampling = replace(Flow(run).sampling, **asked)
    parts = Parts(folder / "report.partial.json")
    with (
        writing_into(folder) if is_place else nullcontext(),
        _keeping(parts),
        console.progress(None, "report", quiet=quiet) as bar,
    ):
        found = measure(
            run,
            limit=limit,
            seed=seed,
            config=sampling,
            device=device,
            executor=executor,
            workers=workers,
            progress=bar.advance,
            expect=bar.expect,
            parts=parts,
        )
        console.finishing()
        page = found.save(folder)
    parts.remove()
    console.show(found, rich_tables(found), as_json)
    if not as_json:
        console.show({}, f"{found.verdict}\n{page}", False)


@contextmanager
def _keeping(parts: Parts) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP say how many parts of the report are kept."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as stop:
        stop.add_note(
            f"{console.many(len(parts), 'part')} of the report {'is' if len(parts) == 1 else 'are'} kept in "
            f"{parts.path}; run the same command again to go on"
            if len(parts)
            else "nothing was written; run the same command again"
        )
        raise
