"""Baselines of fusion: averages, the ensemble, a network trained on the union."""

from __future__ import annotations

from collections.abc import Sequence

from canon.errors import InputError
from canon.types import StateDict
from weightflow import config
from weightflow.applications.weight_averages import AVERAGES
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.evaluation.evaluate import evaluate_jointly, evaluate_networks
from weightflow.generator.generator import Flow
from weightflow.zoo.network_file import Network
from weightflow.zoo.store import Zoo


def baseline_accuracies(
    flow: Flow, networks: Sequence[Network], task: Task, trained: bool
) -> dict[str, float]:
    """Test accuracy of each baseline on the union of classes."""
    architecture = flow.architecture
    found = {
        name: float(evaluate_networks(architecture, average(flow, networks, task), [task]).accuracy)
        for name, average in AVERAGES.items()
    }
    members = [(network.state, network.task) for network in networks]
    found["ensemble"] = evaluate_jointly(architecture, members, task)
    if trained:
        state = trained_as_the_zoo(flow, [task], [0])
        found["trained_on_the_union"] = float(evaluate_networks(architecture, state, [task]).accuracy)
    return found


def trained_as_the_zoo(
    flow: Flow, tasks: Sequence[Task], seeds: Sequence[int], changes: dict[str, object] | None = None
) -> StateDict:
    """Networks for `tasks`, trained by the recipe of the run's zoo with `changes` laid over it."""
    return train_many(flow.architecture, tasks[0].data, tasks, seeds, recipe_of(flow, changes)).state


def recipe_of(flow: Flow, changes: dict[str, object] | None = None) -> TrainingRecipe:
    """How the networks of the run's zoo were trained; `InputError` where the zoo is gone or was imported."""
    path = flow.header.zoo.path
    try:
        tables = Zoo(path).manifest["recipe"]["training"]
    except (InputError, KeyError):
        raise InputError(
            f"the zoo of {flow.folder}, {path}, is gone or does not say how it was trained; "
            "restore it, or leave out what has to be trained"
        ) from None
    return config.build(TrainingRecipe, {**tables, **(changes or {})}, "training.")
