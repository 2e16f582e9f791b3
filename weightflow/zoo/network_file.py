"""One network as a file: a plain `state_dict`, its architecture and its classes in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.container import Container
from canon.io.prefixes import with_keys_like
from canon.types import StateDict
from canon.validation import Invalid, items, parse_json, text
from weightflow.batched.tasks import Task
from weightflow.folders import refuse_own
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt


@dataclass(frozen=True)
class Network:
    """A stack of one, padded to the architecture's number of logits, and the classes it tells apart."""

    state: StateDict
    prompt: Prompt
    dataset: str

    @property
    def task(self) -> Task:
        return Task(self.dataset, self.prompt.classes)


def write_network(path: Path, architecture: Architecture, state: StateDict, classes: tuple[str, ...]) -> None:
    """The one network of a stack, trimmed to its classes; the suffix of `path` decides the format."""
    network = architecture.trim({name: tensor[0] for name, tensor in state.items()}, len(classes))
    checkpoint.write(path, network, metadata_of(architecture, classes))


def metadata_of(architecture: Architecture, classes: Sequence[str]) -> dict[str, str]:
    """What a file says of its network: how to build the module, and what its logits stand for."""
    own = {**architecture.to_dict(), "classes": len(classes)}
    return {"architecture": json.dumps(own, sort_keys=True), "classes": json.dumps(list(classes))}


def read_network(
    path: Path,
    architecture: Architecture,
    dataset: str,
    classes: Prompt | None = None,
    otherwise: Prompt | None = None,
) -> Network:
    """A network for `architecture` from a file, in float32, without the prefixes that wrappers put before its keys.

    Its classes are `classes`; or else what the file says, in its metadata or as `classes` beside the weights; or else, where it says nothing, `otherwise`. Raises `InputError` where the classes are not known or too many, or where keys or shapes are of another
    architecture (the first ten that differ are named).
    """
    refuse_own(path, "a file of one network")
    found = checkpoint.read(path)
    prompt = classes or _beside(found.container)
    if prompt is None and "classes" not in found.metadata:
        prompt = otherwise
    prompt = prompt or _own_classes(path, found.metadata)
    if len(prompt.classes) > architecture.classes:
        raise InputError(
            f"{path} has {len(prompt.classes)} classes; this run was built for {architecture.classes} at most"
        )
    plain = architecture.build(len(prompt.classes)).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    found = with_keys_like(found, expected.keys())[0]
    shapes = {name: tuple(t.shape) for name, t in found.state.items()}
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in dict.fromkeys([*expected, *shapes])
        if shapes.get(name) != expected.get(name)
    ]
    if wrong and (own := _own_number_of_classes(architecture, shapes)) not in (None, len(prompt.classes)):
        raise InputError(
            f"{path} has {own} logits, and {len(prompt.classes)} classes "
            f"{'are named for it' if classes else 'are in the data set'}; say which {own} they are for, by --classes or a list 'classes' beside the weights"
        )
    if wrong:
        raise InputError(
            f"{path} is not a {architecture.name} of {len(prompt.classes)} classes as this run makes: "
            + "; ".join(wrong[:10])
        )
    odd = [
        name
        for name, tensor in found.state.items()
        if tensor.is_complex()
        or tensor.dtype == torch.bool
        or (plain[name].is_floating_point() and not tensor.is_floating_point())
    ]
    if odd:
        raise InputError(f"{path}: {odd[0]} is {found.state[odd[0]].dtype}; expected floating-point numbers")
    checkpoint.require_finite(found.state, str(path))
    padded = {name: _padded(architecture, name, found.state[name]) for name in architecture.shapes}
    return Network(padded, prompt, dataset)


def _own_number_of_classes(architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many classes a network has that differs from the architecture in nothing else; None where it does."""
    if not architecture.is_resizable or shapes.keys() != architecture.shapes.keys():
        return None
    axes = architecture.class_axes
    sizes = {shapes[name][axis] for name, axis in axes.items() if axis < len(shapes[name])}
    if len(sizes) != 1 or not 1 <= (own := sizes.pop()) <= 100_000:
        return None
    expected = {name: tuple(t.shape) for name, t in architecture.build(own).state_dict().items()}
    return own if shapes == expected else None


def classes_beside(found: checkpoint.Checkpoint) -> Prompt | None:
    """The classes that a file says its network tells apart, beside the weights or in its metadata."""
    if own := _beside(found.container):
        return own
    try:
        return Prompt(tuple(_CLASSES(parse_json(found.metadata["classes"], 1 << 24))))
    except (KeyError, Invalid):
        return None


def _beside(container: Container | None) -> Prompt | None:
    """The names of classes that a trainer put beside the weights, where it did."""
    named = None if container is None else container.beside.get("classes")
    listed = isinstance(named, list | tuple) and named and all(isinstance(name, str) for name in named)
    return Prompt(tuple(named)) if named is not None and listed else None


def _own_classes(path: Path, metadata: Mapping[str, str]) -> Prompt:
    try:
        return Prompt(tuple(_CLASSES(parse_json(metadata["classes"], 1 << 24))))
    except (KeyError, Invalid):
        raise InputError(
            f"{path} does not say which classes it tells apart; give them with --classes, in logit order"
        ) from None


_CLASSES = items(text(limit=10_000), 100_000)


def _padded(architecture: Architecture, name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    full = torch.zeros(architecture.shapes[name], dtype=tensor.dtype)
    part = full
    if name in architecture.class_axes:
        axis = architecture.class_axes[name]
        part = full.narrow(axis, 0, tensor.shape[axis])
    part.copy_(tensor)
    return full.unsqueeze(0)
