"""Detect changes of the data since the networks of a zoo were trained."""

from __future__ import annotations

import warnings

from canon.errors import InputWarning
from weightflow.data.info import DataInfo
from weightflow.data.types import ClassificationData
from weightflow.zoo.store import Zoo


def change_of(facts: DataInfo, data: ClassificationData) -> str | None:
    """What has changed, in words; None where nothing has, or it is not known what the data were."""
    if facts.backbone_digest not in ("", data.backbone_digest):
        return f"the backbone of '{data.name}' has changed"
    if not facts.fingerprint or facts.fingerprint == data.fingerprint:
        return None
    if facts.classes != data.class_names:
        now = f"{len(facts.classes)} classes then, {len(data.class_names)} now"
    elif facts.examples != data.examples:
        now = f"{facts.examples} examples then, {data.examples} now"
    else:
        now = f"other examples, {data.examples} as before"
    return f"the data of '{data.name}' have changed ({now})"


def warn_of_changes(zoo: Zoo) -> None:
    """`InputWarning` where the data of a zoo have changed since its networks were trained."""
    table = zoo.manifest.get("data")
    if table is None:
        return
    change = change_of(DataInfo.from_dict(table), zoo.data)
    if change is not None:
        warnings.warn(f"{change} since the networks of {zoo.path} were trained", InputWarning, stacklevel=3)
