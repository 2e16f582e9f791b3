"""What benchmarks on a zoo of one task share: building it, judging it once, training a generator on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.error_overlap import ErrorOverlap, compare_behaviour
from weightflow.evaluation.evaluate import Predictions, evaluate_networks
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo


def built(recipe: str, folder: Path, changes: dict[str, Any] | None = None) -> Zoo:
    build_zoo(read_recipe(recipe, changes or {}), folder / recipe)
    return Zoo(folder / recipe)


def fashion(folder: Path, small: bool) -> Zoo:
    """A hundred Fashion-MNIST MLPs, at the small size trained for fewer steps."""
    return built("fashion_mnist", folder, {"training": {"steps": 1400}} if small else None)


def trained(zoo: Zoo, preset: str, changes: dict[str, Any], run: Path) -> tuple[Flow, dict[str, Any]]:
    """A generator trained in `run`, and what that cost."""
    begin = time.perf_counter()
    progress = start(zoo, read_preset(preset, changes), run).run()
    seconds = time.perf_counter() - begin
    return Flow(run), {"training_steps": progress.step, "training_seconds": round(seconds, 1)}


@dataclass(frozen=True)
class Population:
    """A zoo of one task judged once, and how many networks each generator makes."""

    zoo: Zoo
    predictions: Predictions
    networks: int

    @classmethod
    def of(cls, zoo: Zoo, networks: int) -> Population:
        tasks = [record.task for record in zoo.records]
        return cls(zoo, evaluate_networks(zoo.architecture, zoo.load(), tasks), networks)

    @property
    def tasks(self) -> list[Task]:
        """Of the networks that are made."""
        return [self.zoo.records[0].task] * self.networks

    @property
    def prompts(self) -> list[Prompt]:
        return [Prompt(self.zoo.records[0].classes)] * self.networks

    def seeds(self, seed: int) -> range:
        return range(1000 * seed, 1000 * seed + self.networks)

    def evaluate_networks(self, state: StateDict) -> Predictions:
        return evaluate_networks(self.zoo.architecture, state, self.tasks)

    def good(self, made: Predictions) -> dict[str, float]:
        """Test accuracy of what was made, beside the zoo's."""
        zoo, accuracy = float(self.predictions.accuracy.mean()), float(made.accuracy.mean())
        return {
            "accuracy": accuracy,
            "accuracy_spread": float(made.accuracy.std()),
            "trained": zoo,
            "share_of_trained": accuracy / zoo,
        }

    def compared(self, made: Predictions) -> ErrorOverlap:
        """What was made with the networks of the zoo."""
        return compare_behaviour(made, self.tasks, self.predictions, self._every)

    @cached_property
    def own(self) -> ErrorOverlap:
        """The networks of the zoo with each other."""
        return compare_behaviour(self.predictions, self._every, self.predictions, self._every)

    @property
    def _every(self) -> list[Task]:
        return [record.task for record in self.zoo.records]
