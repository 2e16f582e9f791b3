"""Test accuracy of a whole zoo, a few networks in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow import datasets
from weightflow.batched.group_size import networks_per_group
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.batched.tasks import Task
from weightflow.evaluation.chance import chances
from weightflow.evaluation.evaluate import Spread, evaluate_ensembles, evaluate_networks, named
from weightflow.executors import Executor, InProcess
from weightflow.text.class_words import names_of_words
from weightflow.zoo.data_changes import warn_of_changes
from weightflow.zoo.store import Record, Zoo

LEAST = 16
"""Networks that are judged at once, at least: all of them read the test examples together."""


def evaluate_zoo(
    networks: Zoo | StackedNetworks,
    progress: Callable[[int], None] = lambda networks: None,
    stop: Callable[[], bool] = lambda: False,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Test accuracy of many networks, overall, by split, by class and by prompt; ensembles.

    Of a zoo a few networks are in memory at a time. After each few networks `stop` is asked: where it is true, the
    figures are of the networks judged so far, and `judged` says how many of `networks` those are.
    """
    if len(networks) == 0:
        raise InputError(f"{networks!r} holds no network")
    if isinstance(networks, Zoo):
        warn_of_changes(networks)
    names = datasets.load(_dataset(networks)).class_names
    executor, rows, figures = executor or InProcess(), list[int](), dict[str, Tensor]()
    with closing(executor.map(partial(_evaluated, networks), _groups(networks))) as judging:
        for done, found in judging:
            for name, own in found.items():
                # kept in one tensor: small ones between large freed ones would hold the memory of both
                if name not in figures:
                    figures[name] = own.new_empty(len(networks), *own.shape[1:])
                figures[name][len(rows) : len(rows) + len(done)] = own
            rows += done
            progress(len(done))
            if stop():
                break
    figures = {name: every[: len(rows)] for name, every in figures.items()}
    tasks = _known_tasks(networks, rows, names)
    by_chance = chances(tasks)
    prompts = _grouped([_classes(networks, row) for row in rows])

    def several() -> Iterator[tuple[tuple[str, ...], Task, list[int]]]:
        for classes, own in prompts.items():
            if stop():
                return
            if len(own) > 1:
                yield classes, tasks[own[0]], [rows[i] for i in own]

    ensembles = dict(executor.map(partial(_ensemble, networks), several()))
    return {
        "networks": len(networks),
        "judged": len(rows),
        "zoo": {
            "count": len(rows),
            "architecture": networks.architecture.to_dict(),
            "accuracy": {
                **Spread.of(figures["accuracy"]).to_dict(),
                "max": round(float(figures["accuracy"].max()), 6),
            },
            "balanced_accuracy": Spread.of(figures["recall"].nanmean(dim=1)).to_dict(),
            "calibration_error": Spread.of(figures["calibration"]).to_dict(),
        },
        "chance": round(sum(by_chance) / len(by_chance), 6),
        "splits": {
            name: Spread.of(figures["accuracy"][own]).to_dict()
            for name, own in _grouped([task.split for task in tasks]).items()
        },
        "classes": named(figures["recall"].nanmean(dim=0), names),
        "prompts": [
            {
                "classes": list(classes),
                "networks": len(own),
                **Spread.of(figures["accuracy"][own]).to_dict(),
                "balanced_accuracy": round(float(figures["recall"][own].nanmean(dim=1).mean()), 6),
                "chance": round(by_chance[own[0]], 6),
                **_told(ensembles.get(classes), len(own)),
            }
            for classes, own in prompts.items()
        ],
    }


def _dataset(networks: Zoo | StackedNetworks) -> str:
    first = networks.records[0] if isinstance(networks, Zoo) else networks.tasks[0]
    return first.dataset


def _classes(networks: Zoo | StackedNetworks, row: int) -> tuple[str, ...]:
    """What a network's maker called its classes."""
    own = networks.records[row] if isinstance(networks, Zoo) else networks.tasks[row]
    return own.classes


def _known_tasks(networks: Zoo | StackedNetworks, rows: Sequence[int], names: Sequence[str]) -> list[Task]:
    if isinstance(networks, StackedNetworks):
        return [networks.tasks[row] for row in rows]
    meant = names_of_words(networks.class_words)
    return [known_task(networks.records[row], names, meant) for row in rows]


def _groups(networks: Zoo | StackedNetworks) -> Iterator[list[int]]:
    """Rows of the networks that are evaluated together, of one shard each."""
    size = max(LEAST, networks_per_group(networks.architecture))
    for rows in networks.shard_rows if isinstance(networks, Zoo) else [list(range(len(networks)))]:
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _evaluated(
    networks: Zoo | StackedNetworks, rows: list[int]
) -> tuple[list[int], dict[str, Float[Tensor, "networks ..."]]]:
    """The rows, and accuracy, calibration error and recall of each network there."""
    names = datasets.load(_dataset(networks)).class_names
    predictions = evaluate_networks(
        networks.architecture, _state(networks, rows), _known_tasks(networks, rows, names)
    )
    return rows, {
        "accuracy": predictions.accuracy,
        "calibration": predictions.calibration,
        "recall": predictions.recall(len(names)),
    }


def _state(networks: Zoo | StackedNetworks, rows: list[int]) -> StateDict:
    return networks.load(rows) if isinstance(networks, Zoo) else networks[rows].state


def known_task(record: Record, names: Sequence[str], meant: Mapping[str, str] | None = None) -> Task:
    """The task of a network by the data set's names of its classes.

    A class that was named by its maker and described by a class of the data set (`bell pepper = sweet pepper`)
    is judged on the examples of the latter; so is one that was named by the words of a class (`meant`: words to it).
    """
    words, meant = record.words or record.classes, meant or {}
    classes = [
        own if own in names else meant.get(said, said)
        for own, said in zip(record.classes, words, strict=True)
    ]
    if tuple(classes) == record.classes or len(set(classes)) < len(classes) or not set(classes) <= set(names):
        return record.task
    return replace(record.task, classes=tuple(classes))


def _ensemble(
    networks: Zoo | StackedNetworks, asked: tuple[tuple[str, ...], Task, list[int]]
) -> tuple[tuple[str, ...], float]:
    """The classes of a prompt, and the accuracy of its networks as an ensemble."""
    classes, task, rows = asked
    found = evaluate_ensembles(networks.architecture, _state(networks, rows), task, [len(rows)])
    return classes, found[len(rows)]


def _told(ensemble: float | None, networks: int) -> dict[str, Any]:
    if ensemble is not None:
        return {"ensemble": round(ensemble, 6)}
    reason = "one network is not an ensemble" if networks < 2 else "the command was stopped before"
    return {"ensemble": None, "ensemble_reason": reason}


def _grouped(keys: Sequence[Any]) -> Mapping[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups
