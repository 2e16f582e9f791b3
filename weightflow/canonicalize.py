"""Bring a zoo into one frame: scale balance, then weight matching to the running mean.

Networks of different tasks have different logits, so they are compared in a wider architecture with
one logit for every class of the data set: each network's rows are scattered to the classes they stand
for, absent classes stay zero. The frame is learned from the networks that the generator may see; the
others are aligned to it afterwards. It is stored beside the zoo, so that any network can follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from canon import checkpoint
from canon.canonical import align_many, align_to
from canon.errors import InputError
from weightflow import datasets
from weightflow.architectures import Architecture
from weightflow.zoo.logits import class_table
from weightflow.zoo.store import Zoo, read_manifest, write_zoo
from weightflow.zoo.tasks import Task

State = dict[str, Tensor]
FRAME = "frame.safetensors"


@lru_cache(maxsize=16)
def widen(architecture: Architecture, classes: int) -> Architecture:
    """The same architecture with one logit for each of `classes`; one object, so that it is traced once."""
    return dataclasses.replace(architecture, classes=classes)


def _logit_of_class(architecture: Architecture, tasks: Sequence[Task]) -> Tensor:
    return class_table(datasets.load(tasks[0].dataset), tasks, architecture.classes)[0]


def scatter_classes(architecture: Architecture, state: State, tasks: Sequence[Task]) -> State:
    """Stacked states with class axes reordered to the data set's classes; absent ones are zero."""
    return move_classes(architecture, state, _logit_of_class(architecture, tasks))


def gather_classes(architecture: Architecture, wide: State, tasks: Sequence[Task]) -> State:
    """The inverse: each task's logits out of all classes, padded with zeros to the architecture's."""
    data = datasets.load(tasks[0].dataset)
    index = torch.full((len(tasks), architecture.classes), -1)
    for row, task in enumerate(tasks):
        index[row, : len(task.classes)] = torch.tensor(data.class_index(task.classes))
    return move_classes(architecture, wide, index)


def move_classes(architecture: Architecture, state: State, index: Tensor) -> State:
    """Entry i of each class axis becomes entry index[i] of the old one, or zero where that is -1."""
    moved = {}
    for name, tensor in state.items():
        axis = architecture.class_axes.get(name)
        if axis is not None:
            shape = [len(index)] + [1] * (tensor.dim() - 1)
            shape[axis + 1] = index.shape[1]
            wanted = index.view(shape)
            picked = torch.take_along_dim(tensor, wanted.clamp(min=0), dim=axis + 1)
            tensor = torch.where(wanted >= 0, picked, torch.zeros((), dtype=tensor.dtype))
        moved[name] = tensor
    return moved


def follow(zoo_architecture: Architecture, frame: State, state: State, tasks: Sequence[Task]) -> State:
    """Align stacked networks of any tasks to a frame; their functions stay what they are."""
    data = datasets.load(tasks[0].dataset)
    wide = widen(zoo_architecture, len(data.class_names))
    aligned = align_to(wide.spec, frame, scatter_classes(zoo_architecture, state, tasks))
    return gather_classes(zoo_architecture, aligned.state, tasks)


def canonicalize_zoo(zoo: Zoo, out: Path, progress: Callable[[int], None] = lambda n: None) -> None:
    """Write the canonical zoo and its frame to `out`; ids, tasks, seeds and accuracies are kept."""
    if out.resolve() == zoo.path.resolve():
        raise InputError(f"{out} is the zoo itself; name another folder for the canonical one")
    if out.exists() and not (out / FRAME).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and holds no canonical zoo; choose another name")
    if (out / "zoo.json").exists() and _source(out) != zoo.identity:
        raise InputError(
            f"{out} holds the canonical form of another zoo than {zoo.path}; choose another name, or delete it"
        )
    architecture, records = zoo.architecture, zoo.records
    seen = zoo.rows("seen") or zoo.rows()
    wide = widen(architecture, len(datasets.load(zoo.dataset).class_names))

    wide_state = scatter_classes(architecture, zoo.load(seen), [records[i].task for i in seen])
    frame = align_many(wide.spec, wide_state).frame
    progress(len(seen))
    # everyone takes the one way into the frame that any other network takes later
    state = follow(architecture, frame, zoo.load(), [record.task for record in records])
    progress(len(records) - len(seen))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write(out / FRAME, frame)
    header = {
        key: value for key, value in zoo.manifest.items() if key not in ("format", "shards", "records_sha256")
    }
    write_zoo(out, {**header, "canonical": {"source": zoo.identity}}, state, records)


def is_canonical(zoo: Zoo) -> bool:
    """Whether the zoo lies in a frame of its own."""
    return (zoo.path / FRAME).exists()


def read_frame(zoo: Zoo) -> State:
    """The frame of a canonical zoo; `InputError` says how to make one."""
    if not is_canonical(zoo):
        raise InputError(
            f"{zoo.path} is not canonical; run: weightflow canonicalize {zoo.path} --out {zoo.path}-canonical"
        )
    return checkpoint.read(zoo.path / FRAME).state


def is_canonical_form_of(folder: Path, zoo: Zoo) -> bool:
    """Whether `folder` holds the complete canonical form of exactly this zoo."""
    if not (folder / "zoo.json").exists():
        return False
    return _source(folder) == zoo.identity and not Zoo(folder).verify()


def _source(folder: Path) -> str | None:
    """Identity of the zoo that a canonical zoo was made of."""
    return read_manifest(folder).get("canonical", {}).get("source")
