"""Test accuracy of a whole zoo, a few networks in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from canon.errors import InputError
from canon.types import StateDict
from weightflow import datasets
from weightflow.batched.group_size import together
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.batched.tasks import Task
from weightflow.evaluation.chance import chance
from weightflow.evaluation.evaluate import Spread, judge, judge_ensembles, named
from weightflow.text.class_words import names_of_words
from weightflow.zoo.data_changes import warn_of_changes
from weightflow.zoo.store import Record, Zoo

LEAST = 16
"""Networks that are judged at once, at least: all of them read the test examples together."""


def evaluate_zoo(
    networks: Zoo | StackedNetworks,
    progress: Callable[[int], None] = lambda networks: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Test accuracy of many networks, overall, by split, by class and by prompt; ensembles.

    Of a zoo a few networks are in memory at a time. After each few networks `stop` is asked: where it is true, the
    figures are of the networks judged so far, and `judged` says how many of `networks` those are.
    """
    if len(networks) == 0:
        raise InputError(f"{networks!r} holds no network")
    if isinstance(networks, Zoo):
        warn_of_changes(networks)
    said = _tasks(networks)
    names = datasets.load(said[0].dataset).class_names
    known = _known_tasks(networks, names)
    rows, figures = _judged(networks, known, names, progress, stop)
    tasks = [known[row] for row in rows]
    prompts = _grouped([said[row].classes for row in rows])
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
        "chance": round(chance(tasks), 6),
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
                "chance": round(chance([tasks[own[0]]]), 6),
                **_together(networks, [rows[i] for i in own], tasks[own[0]], stop),
            }
            for classes, own in prompts.items()
        ],
    }


def _tasks(networks: Zoo | StackedNetworks) -> list[Task]:
    if isinstance(networks, StackedNetworks):
        return list(networks.tasks)
    return [record.task for record in networks.records]


def _known_tasks(networks: Zoo | StackedNetworks, names: Sequence[str]) -> list[Task]:
    if isinstance(networks, StackedNetworks):
        return list(networks.tasks)
    meant = names_of_words(networks.class_words)
    return [known_task(record, names, meant) for record in networks.records]


def _parts(
    networks: Zoo | StackedNetworks, rows: Sequence[int]
) -> Iterator[tuple[Int[Tensor, " networks"], StateDict]]:
    """Positions in `rows` and the networks there, one shard of a zoo in memory at a time."""
    if isinstance(networks, Zoo):
        yield from networks.by_shard(rows)
    else:
        yield torch.arange(len(rows)), networks[list(rows)].state


def _judged(
    networks: Zoo | StackedNetworks,
    tasks: Sequence[Task],
    names: Sequence[str],
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> tuple[list[int], dict[str, Float[Tensor, "networks ..."]]]:
    """Rows of the networks that were judged, and accuracy, calibration error and recall of each."""
    size, done = max(LEAST, together(networks.architecture)), list[int]()
    parts: dict[str, list[Tensor]] = {"accuracy": [], "calibration": [], "recall": []}
    for positions, state in _parts(networks, range(len(networks))):
        for place in torch.arange(len(positions)).split(size):
            rows = positions[place].tolist()
            some = {name: tensor[place] for name, tensor in state.items()}
            judged = judge(networks.architecture, some, [tasks[row] for row in rows])
            parts["accuracy"].append(judged.accuracy)
            parts["calibration"].append(judged.calibration)
            parts["recall"].append(judged.recall(len(names)))
            done += rows
            progress(len(rows))
            if stop():
                break
        if stop():
            break
    return done, {name: torch.cat(found) for name, found in parts.items()}


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
    if len(set(classes)) < len(classes) or not set(classes) <= set(names):
        return record.task
    return replace(record.task, classes=tuple(classes))


def _together(
    networks: Zoo | StackedNetworks, rows: list[int], task: Task, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Accuracy of the networks of one prompt as an ensemble."""
    if len(rows) < 2:
        return {"ensemble": None, "ensemble_reason": "one network is no ensemble"}
    if stop():
        return {"ensemble": None, "ensemble_reason": "the command was stopped before"}
    state = networks.load(rows) if isinstance(networks, Zoo) else networks[rows].state
    found = judge_ensembles(networks.architecture, state, task, [len(rows)])
    return {"ensemble": round(found[len(rows)], 6)}


def _grouped(keys: Sequence[Any]) -> Mapping[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups
