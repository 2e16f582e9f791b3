"""Test accuracy of a whole zoo, a few networks in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.group_size import together
from weightflow.batched.tasks import Task
from weightflow.evaluation.chance import chance
from weightflow.evaluation.evaluate import Spread, judge, judge_ensembles, named
from weightflow.zoo.store import Record, Zoo

LEAST = 16
"""Networks that are judged at once, at least: all of them read the test examples together."""


def evaluate_zoo(
    zoo: Zoo,
    progress: Callable[[int], None] = lambda networks: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Test accuracy of the networks of a zoo, overall, by split, by class and by prompt; ensembles.

    After each few networks `stop` is asked: where it is true, the figures are of the networks judged so far,
    and `judged` says how many of `networks` those are.
    """
    if len(zoo) == 0:
        raise InputError(f"{zoo.path} holds no network")
    names = datasets.load(zoo.dataset).class_names
    rows, figures = _judged(zoo, names, progress, stop)
    tasks = [known_task(zoo.records[row], names) for row in rows]
    prompts = _grouped([zoo.records[row].classes for row in rows])
    return {
        "networks": len(zoo),
        "judged": len(rows),
        "zoo": {
            "count": len(rows),
            "architecture": zoo.architecture.to_dict(),
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
                **_together(zoo, [rows[i] for i in own], tasks[own[0]], stop),
            }
            for classes, own in prompts.items()
        ],
    }


def _judged(
    zoo: Zoo, names: Sequence[str], progress: Callable[[int], None], stop: Callable[[], bool]
) -> tuple[list[int], dict[str, Float[Tensor, "networks ..."]]]:
    """Rows of the networks that were judged, and accuracy, calibration error and recall of each."""
    size, done = max(LEAST, together(zoo.architecture)), []
    parts: dict[str, list[Tensor]] = {"accuracy": [], "calibration": [], "recall": []}
    for positions, state in zoo.by_shard(range(len(zoo))):
        for place in torch.arange(len(positions)).split(size):
            rows = positions[place].tolist()
            some = {name: tensor[place] for name, tensor in state.items()}
            judged = judge(zoo.architecture, some, [known_task(zoo.records[row], names) for row in rows])
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


def known_task(record: Record, names: Sequence[str]) -> Task:
    """The task of a network by the data set's names of its classes.

    A class that was named by its maker and described by a class of the data set (`bell pepper = sweet pepper`)
    is judged on the examples of the latter.
    """
    words = record.words or record.classes
    classes = [own if own in names else said for own, said in zip(record.classes, words, strict=True)]
    if len(set(classes)) < len(classes) or not set(classes) <= set(names):
        return record.task
    return replace(record.task, classes=tuple(classes))


def _together(zoo: Zoo, rows: list[int], task: Task, stop: Callable[[], bool]) -> dict[str, Any]:
    """Accuracy of the networks of one prompt as an ensemble."""
    if len(rows) < 2:
        return {"ensemble": None, "ensemble_reason": "one network is no ensemble"}
    if stop():
        return {"ensemble": None, "ensemble_reason": "the command was stopped before"}
    found = judge_ensembles(zoo.architecture, zoo.load(rows), task, [len(rows)])
    return {"ensemble": round(found[len(rows)], 6)}


def _grouped(keys: Sequence[Any]) -> Mapping[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups
