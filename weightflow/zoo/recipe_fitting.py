"""A recipe on another data set or with another architecture than its own: what depends on these is fitted, and said.

Classes, sizes of tasks, held-out classes and the width of inputs are those of the recipe's own data set, arguments those of its
own architecture. What the user has set stays as it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from canon.errors import InputWarning
from weightflow import datasets
from weightflow.config import replace_nested
from weightflow.networks.architectures import FAMILIES, OWN_ARGUMENTS
from weightflow.text import load_encoder

HELD_OUT_SHARE = 4
"""At most one class in so many is held out."""


def fitted(name: str, own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's tables with `changes`, and where these name another data set or architecture, fitted to it.

    `InputWarning` says what was fitted.
    """
    tables = replace_nested(_without_arguments_of_another(own, changes), changes)
    if "dataset" not in own or datasets.absolute(str(tables["dataset"])) == datasets.absolute(
        str(own["dataset"])
    ):
        return tables
    data = datasets.load(str(tables["dataset"]))
    found = {
        "tasks": _tasks(data, tables.get("tasks", {}), _table(changes, "tasks")),
        "architecture": {"arguments": _arguments(data.input_shape, tables, changes)},
    }
    said = [f"tasks.{key} = {value}" for key, value in found["tasks"].items()]
    said += [f"architecture.arguments.{k} = {v}" for k, v in found["architecture"]["arguments"].items()]
    if said:
        warnings.warn(
            f"recipe '{name}' was made for another data set; for '{data.name}': {', '.join(said)}",
            InputWarning,
            stacklevel=3,
        )
    return replace_nested(tables, found)


def _without_arguments_of_another(own: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe's tables without arguments that an architecture named in `changes` does not take; of functions from
    elsewhere none is known. A name that nothing has is left to the check of the recipe."""
    name, table = _table(changes, "architecture").get("name"), _table(own, "architecture")
    if name == table.get("name") or name not in FAMILIES:
        return own
    arguments = _table(table, "arguments")
    kept = {key: value for key, value in arguments.items() if key in OWN_ARGUMENTS.get(str(name), ())}
    if len(kept) < len(arguments):
        left_out = ", ".join(key for key in arguments if key not in kept)
        warnings.warn(
            f"arguments of the recipe's architecture '{table.get('name')}' are left out for '{name}': {left_out}",
            InputWarning,
            stacklevel=4,
        )
    return {**own, "architecture": {**table, "arguments": kept}}


def _tasks(
    data: datasets.ClassificationData, own: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of tasks that do not fit the classes of the data, so that they do."""
    found: dict[str, Any] = {}
    chosen = set(own.get("classes", ()))
    if "classes" not in asked and not chosen <= set(data.class_names):
        found["classes"], chosen = [], set()
    pool = [name for name in data.class_names if not chosen or name in chosen]
    excluded = sum(name in data.excluded for name in pool)
    if own.get("unseen_by_backbone") and "unseen_by_backbone" not in asked and excluded < 2:
        found["unseen_by_backbone"] = 0
    known, held_out = len(pool) - excluded, own.get("held_out", 0)
    if held_out and "held_out" not in asked and held_out > known // HELD_OUT_SHARE:
        held_out = known // HELD_OUT_SHARE if known // HELD_OUT_SHARE > 1 else 0
        found["held_out"] = held_out
        if not held_out and own.get("unseen_classes") and "unseen_classes" not in asked:
            found["unseen_classes"] = 0
    sizes, known = own.get("sizes"), known - held_out
    if sizes and "sizes" not in asked and sizes[1] > known > 1:
        # less than all classes: else there is one combination, and none is left to hold out
        high = known - 1 if known > 2 else known
        found["sizes"] = [max(2, min(sizes[0], known // 2)), high]
    return found


def _arguments(
    shape: tuple[int, ...], tables: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of the package's own architectures that follow from the shape of examples and of text vectors."""
    architecture, readout = tables.get("architecture", {}), tables.get("readout", {})
    arguments = dict(architecture.get("arguments", {}))
    asked = _table(_table(changes, "architecture"), "arguments")
    takes = OWN_ARGUMENTS.get(architecture.get("name", "mlp"), ())
    wanted: dict[str, Any] = {}
    if "inputs" in takes:
        wanted["inputs"] = math.prod(shape)
    if "channels" in takes and len(shape) == 3 and arguments.get("channels", 3) != shape[0]:
        wanted["channels"] = shape[0]
    if "outputs" in takes and readout.get("encoder"):
        width = load_encoder(readout["encoder"]).width
        if width != arguments.get("outputs", math.prod(shape)):
            wanted["outputs"] = width
    return {key: value for key, value in wanted.items() if key not in asked and arguments.get(key) != value}


def _table(tables: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tables.get(key, {})
    return found if isinstance(found, Mapping) else {}
