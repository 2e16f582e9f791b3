"""What networks are worth: evaluate, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from canon.cli import console
from canon.errors import InputError

app = typer.Typer()


@app.command()
def evaluate(
    networks: Annotated[Path, typer.Argument(help="Folder of generated networks, or any zoo.")],
    as_json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Accuracy and calibration on real test images, beside chance; by split, class and prompt."""
    from weightflow.api.evaluation import evaluate as evaluate_networks
    from weightflow.cli.report_tables import told
    from weightflow.zoo.store import Zoo

    opened = Zoo(networks)
    with console.progress(len(opened), "evaluating networks", quiet=quiet) as steps:
        found = evaluate_networks(opened, progress=steps.advance)
    console.show(found, "\n".join(told(found)), as_json)


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
    """Measure a run against trained networks and baselines: report.json and report.html."""
    from weightflow.api.evaluation import report as measure
    from weightflow.cli.report_tables import rich_tables
    from weightflow.generator.generator import Flow

    if limit < 1:
        raise InputError(f"--limit is {limit}; it must be at least 1")
    asked: dict[str, Any] = {
        key: value for key, value in (("method", method), ("steps", steps)) if value is not None
    }
    sampling = replace(Flow(run).sampling, **asked)
    say = (lambda text: None) if quiet else console.say
    found = measure(run, limit=limit, seed=seed, config=sampling, say=say)
    page = found.save(out or run)
    console.show(found, rich_tables(found), as_json)
    if not as_json:
        console.show({}, f"{found.verdict}\n{page}", False)
