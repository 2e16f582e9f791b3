"""The Python API of generators: train, load, and a generator that can be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.io.folders import require_place
from canon.types import PathLike, no_callback
from weightflow import config
from weightflow.api.evaluation import Report, evaluate, report
from weightflow.api.populations import opened
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.evaluation.context import open_context
from weightflow.evaluation.novelty import nearest_distances
from weightflow.generator import generator
from weightflow.training import trainer as training
from weightflow.training.config import TrainConfig
from weightflow.training.presets import read_preset
from weightflow.training.processes import Processes
from weightflow.zoo.store import Zoo


class Flow(generator.Flow):
    __doc__ = generator.Flow.__doc__

    def evaluate(self, classes: str, count: int = 16, seed: int = 0, **settings: Any) -> dict[str, Any]:
        """Generate networks for one prompt and measure them on the test examples of its classes.

        Args:
            classes: Classes in logit order, as "three, seven".
            count: Networks to generate.
            seed: Seed of the first network.
            **settings: As of `sample`.

        Returns:
            What `weightflow.evaluate` returns: accuracy beside chance, calibration, by class, and the ensemble's.

        Raises:
            InputError: The data set is not on this computer, or the prompt does not fit.

        Example:
            >>> import weightflow
            >>> found = weightflow.load("runs/digits").evaluate("three, seven", count=4)
            >>> found["zoo"]["count"], round(found["chance"], 1)
            (4, 0.5)
        """
        return evaluate(self.sample(classes, count, seed, **settings))

    def novelty(self, networks: StackedNetworks) -> list[float]:
        """How far networks are from the training networks: 0 is a copy, 1 as far as training networks from each other.

        Args:
            networks: Networks that this generator made, or others of its architecture.

        Returns:
            The distance of each to the nearest training network after matching, over the zoo's own spacing.

        Raises:
            InputError: The run's zoo has moved, has changed, or is not canonical.

        Example:
            >>> import weightflow
            >>> flow = weightflow.load("runs/digits")
            >>> all(distance > 0 for distance in flow.novelty(flow.sample("three, seven", 4)))
            True
        """
        context = open_context(self.folder)
        if not context.is_canonical:
            raise InputError(
                f"{context.zoo.path} is not canonical, so distances between networks say nothing"
            )
        found = nearest_distances(context, networks.state, list(networks.tasks)).ratios
        return [round(ratio, 6) for ratio in found.tolist()]

    def report(self, *, limit: int = 200, seed: int = 0, **settings: Any) -> Report:
        """Measure the run against trained networks, baselines and its own zoo.

        Args:
            limit: Tasks of each split at most.
            seed: Seed of the generated networks.
            **settings: Fields of `SampleConfig` to change, such as `steps=4`.

        Returns:
            The report; `.verdict` is one sentence, `.save(folder)` writes report.json and report.html.

        Raises:
            InputError: The run's zoo has moved or changed.

        Example:
            >>> import weightflow
            >>> report = weightflow.load("runs/digits").report(limit=2)
            >>> report["focus"], report["splits"]["unseen_classes"]
            ('unseen_combinations', None)
        """
        return report(self.folder, limit=limit, seed=seed, config=replace(self.sampling, **settings))


def load(folder: PathLike, device: str = "cpu") -> Flow:
    """Open a trained generator.

    Args:
        folder: Folder of a run, or of a generator that `save_pretrained` or `weightflow export` wrote.
        device: Where the model runs.

    Returns:
        The generator.

    Raises:
        InputError: The folder holds no run, or a damaged one.

    Example:
        >>> import weightflow
        >>> weightflow.load("runs/digits").known_classes[:3]
        ('zero', 'one', 'two')
    """
    return Flow(folder, device)


def train(
    zoo: Zoo | PathLike,
    out: PathLike,
    *,
    preset: str = "weightflow",
    steps: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[int, str], None] | None = None,
    metrics: Callable[[Mapping[str, int | float]], None] | None = None,
) -> Flow:
    """Train a generator on a zoo.

    Args:
        zoo: The zoo (canonical, if units are to be comparable), or its folder.
        out: Folder of the run: checkpoints, settings, metrics.jsonl.
        preset: Settings to begin from (`weightflow list presets`).
        steps: Steps of training; the preset's by default.
        seed: Seed of everything random.
        settings: Settings to change, such as `{"model.width": 192, "behaviour.weight": 3}`.
        resume: Go on with the run in `out`, bit for bit, where there is one; `steps` may lengthen it.
        device: Where the model is trained: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for an accelerator where there
            is one. Random numbers do not depend on it.
        progress: Called after each step with 1 and a note (the held-out loss when it was measured).
        metrics: Called with the numbers of each evaluation: `step`, `seconds`, `held_out` and its parts, as
            `metrics.jsonl` has them.

    Returns:
        The trained generator.

    Raises:
        InputError: A setting does not exist, `out` is in use, or a setting cannot change in a run that has begun.
        WorkError: The loss is not finite.

    Example:
        >>> import weightflow
        >>> flow = weightflow.train("zoos/canonical", "runs/short", steps=2, settings={"model.width": 16})
        >>> flow.sample("three, seven", 100)
        StackedNetworks(100 networks, mlp, ... parameters, 2 classes)
    """
    changes = config.replace_nested(config.nested(settings or {}), {"steps": steps, "seed": seed})
    trainer = start_or_resume(opened(zoo), Path(out), preset, changes, resume, device)
    trainer.run(progress or no_callback, on_metrics=metrics or no_callback)
    return load(out)


def start_or_resume(
    zoo: Zoo,
    out: Path,
    preset: str,
    changes: Mapping[str, Any],
    resume: bool,
    device: str = "cpu",
    processes: Processes = Processes(),
) -> training.Trainer:
    """A trainer in `out`: that of the run there, if asked and there is one, else a new one."""
    if resume and training.is_begun(out):
        return training.resume(zoo, out, changes, device, processes)
    require_place(out)
    plan = read_preset(preset, dict(changes))
    planned = zoo.manifest.get("recipe", {}).get("encoder")
    if planned and "encoder" not in changes and plan.encoder == TrainConfig().encoder:
        plan = replace(plan, encoder=planned)
    return training.start(zoo, plan, out, device, processes)
