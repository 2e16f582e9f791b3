"""The Python API of evaluation: evaluate, report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from canon.io.digests import with_digest
from canon.io.files import atomic_write
from canon.io.json_text import json_text
from canon.types import PathLike, no_callback
from weightflow.api.populations import opened
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.device import computing_on, usable_device
from weightflow.evaluation.population import evaluate_zoo
from weightflow.executors import make_executor
from weightflow.flow.sampling_config import SampleConfig
from weightflow.report import make_report, verdict
from weightflow.report.html import write_page
from weightflow.report.html.tables import full_table
from weightflow.report.parts import Parts
from weightflow.training.run_store import REPORT
from weightflow.zoo.store import Zoo


class Report(dict[str, Any]):
    """The figures of a run, as `report.json` holds them; a figure that was not measured is None, with a reason.

    Example:
        >>> import weightflow
        >>> weightflow.Report({"chance": 0.5})["chance"]
        0.5
    """

    @property
    def verdict(self) -> str:
        """One sentence: how good the networks are, how new, and what the best baseline reaches."""
        return verdict(self)

    def save(self, folder: PathLike) -> Path:
        """Write report.json, report.html and, with the table of all methods, report.csv.

        Args:
            folder: Folder, made where it is missing.

        Returns:
            The path of the page.

        Raises:
            OSError: The folder cannot be written.

        Example:
            >>> import weightflow
            >>> weightflow.load("runs/digits").report(limit=2).save("out").name
            'report.html'
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        plain = json.loads(json_text(self))  # the digest is of what the file says
        atomic_write(place / REPORT, json_text(with_digest(plain)))
        lines = StringIO(newline="")
        csv.writer(lines).writerows(full_table(dict(self)))
        atomic_write(place / "report.csv", lines.getvalue())
        write_page(place / "report.html", dict(self))
        return place / "report.html"


def evaluate(
    networks: StackedNetworks | Zoo | PathLike,
    *,
    device: str | None = None,
    executor: str = "local",
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Accuracy and calibration on the test examples of the networks' data set, beside chance.

    Args:
        networks: Generated networks, a zoo, or a zoo's folder.
        device: Where the networks are run: `cpu` (the default), `cuda`, `cuda:1`, `mps`, or `auto`.
        executor: "local" or "ray".
        workers: Groups of networks that are measured side by side.
        progress: Called with the number of networks that were measured since its last call.
        stop: Asked after each few networks; where it is true, the figures are of those measured so far.

    Returns:
        Fractions: `zoo.accuracy` (mean, std, 95 % interval of the mean, max), `zoo.balanced_accuracy`, `chance` (the
        share of the largest class), `splits`, `classes`, `prompts` with the accuracy of each prompt's ensemble;
        `judged` of `networks` says how many were measured.

    Raises:
        InputError: There is no network, or the data set is not on this computer.

    Example:
        >>> import weightflow
        >>> found = weightflow.evaluate("zoos/digits")
        >>> found["zoo"]["accuracy"]["mean"] > found["chance"]
        True
    """
    found = networks if isinstance(networks, StackedNetworks) else opened(networks)
    with computing_on(usable_device(device)):
        computing = make_executor(executor, workers, str(usable_device()))
        return evaluate_zoo(found, progress or no_callback, stop or (lambda: False), computing)


def report(
    run: PathLike,
    *,
    limit: int = 200,
    seed: int = 0,
    config: SampleConfig | None = None,
    device: str | None = None,
    executor: str = "local",
    workers: int = 1,
    progress: Callable[[int, str], None] | None = None,
    expect: Callable[[int], None] | None = None,
    parts: Parts | None = None,
) -> Report:
    """Measure a run against trained networks, the generalist, trivial baselines and its own zoo.

    Args:
        run: Folder of a trained generator.
        limit: Maximum number of tasks of each split, and of training networks to compare with.
        seed: Seed of the generated networks.
        config: How to sample; the run's own way by default.
        device: Where to compute; "cpu" by default.
        executor: "local" or "ray": where `workers` compute the baselines.
        workers: Number of baselines computed in parallel.
        progress: Called before each part with 0 and its name, then with the number of steps that are done.
        expect: Called once, with the number of steps of this report.
        parts: Keeps what is measured, so that a report which was stopped goes on.

    Returns:
        The figures, which save themselves as JSON and as a page.

    Raises:
        InputError: The run's zoo has moved or changed.
    """
    with computing_on(usable_device(device)):
        computing = make_executor(executor, workers, str(usable_device()))
        told = progress or no_callback, parts, computing, expect or no_callback
        return Report(make_report(Path(run), seed, limit, config, *told))
