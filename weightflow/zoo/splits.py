"""Which networks of a zoo a generator learns from, and which choose its checkpoints."""

from __future__ import annotations

import torch

from canon.errors import InputError
from weightflow.folders import GENERATED, wrong_kind
from weightflow.zoo.store import Zoo


def train_validation_split(zoo: Zoo, share: float) -> dict[str, list[int]]:
    """Rows by split: `seen` to learn from, `validation` to choose checkpoints by.

    Where the zoo holds out no combination of classes (all its networks may have one task), a share of its
    networks is held out instead, the same ones for every seed.
    """
    seen, validation = zoo.rows("seen"), zoo.rows("validation")
    if not validation:
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = set(order[: max(1, round(share * len(seen)))])
        validation = [row for i, row in enumerate(seen) if i in held_out]
        seen = [row for i, row in enumerate(seen) if i not in held_out]
    if not seen and zoo.manifest.get("lineage") == GENERATED:
        raise wrong_kind(zoo.path, "a zoo of trained networks")
    if not seen or not validation:
        raise InputError(
            f"{zoo.path} has {len(seen)} networks to train on and {len(validation)} to choose checkpoints by; "
            "both are needed"
        )
    return {"seen": seen, "validation": validation}


def only_task(zoo: Zoo) -> tuple[str, ...]:
    """The classes of every network in logit order, or nothing where networks have different tasks."""
    tasks = {record.classes for record in zoo.records}
    return next(iter(tasks)) if len(tasks) == 1 else ()
