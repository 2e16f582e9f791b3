"""What networks are worth: evaluate, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError

if TYPE_CHECKING:
    from weightflow.report.parts import Parts

app = typer.Typer()


@app.command()
def evaluate(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Accuracy and calibration on real test images, beside chance; by split, class and prompt.

    Chance is the share of the largest class. Ctrl-C shows the figures of the networks judged so far.
    """
    from weightflow.cli.report_tables import told
    from weightflow.evaluation.population import evaluate_zoo
    from weightflow.zoo.store import Zoo

    zoo = Zoo(networks)
    with console.deferred() as stop:
        with console.progress(len(zoo), "judging networks", quiet=quiet) as steps:
            found = evaluate_zoo(zoo, steps.advance, stop)
        console.show(found, "\n".join(told(found)), as_json)
        stop.notes.append(f"{found['judged']} of {len(zoo)} networks were judged; the figures are of these")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; the run's own by default.")] = None,
    limit: Annotated[int, typer.Option(help="Tasks of each split at most.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the generated networks.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps; the run's own by default.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="euler, midpoint, heun, rk4, dopri5, ddim or ancestral; the run's own by default."),
    ] = None,
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Measure a run against trained networks and baselines: report.json and report.html.

    Stopped? Run the same command again: the parts that were measured are kept.
    """
    from canon.io.digests import with_digest
    from canon.io.files import atomic_write
    from weightflow.cli.report_tables import rich_tables
    from weightflow.generator.generator import Flow
    from weightflow.report import make_report, verdict
    from weightflow.report.html import write_page
    from weightflow.report.parts import Parts

    folder = out or run
    if limit < 1:
        raise InputError(f"--limit is {limit}; it must be at least 1")
    asked: dict[str, Any] = {
        key: value for key, value in (("method", method), ("steps", steps)) if value is not None
    }
    parts = Parts(folder / "report.partial.json")
    with _keeping(parts), console.progress(None, "report", quiet=quiet) as bar:
        found = make_report(run, seed, limit, replace(Flow(run).sampling, **asked), bar.advance, parts)
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(console.json_text(found))  # the digest is of what the file says
    atomic_write(folder / "report.json", console.json_text(with_digest(plain)))
    write_page(folder / "report.html", found)
    parts.remove()
    console.show(found, rich_tables(found), as_json)
    if not as_json:
        console.show({}, f"{verdict(found)}\n{folder / 'report.html'}", False)


@contextmanager
def _keeping(parts: Parts) -> Iterator[None]:
    """Ctrl-C and SIGTERM say how many parts of the report are kept."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as stop:
        stop.add_note(
            f"{len(parts)} parts of the report are kept in {parts.path}; run the same command again to go on"
            if len(parts)
            else "nothing was written; run the same command again"
        )
        raise
