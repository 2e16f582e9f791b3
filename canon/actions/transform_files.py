"""Apply a transform to files: networks, task vectors, low-rank factors, optimizer state."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from canon.actions.transform import Transform
from canon.errors import InputError
from canon.io import checkpoint, torch_pickle
from canon.io.checkpoint import Checkpoint
from canon.io.files import atomic_open, reading
from canon.spec import PermutationSpec

Path = str | os.PathLike[str]


class Keys(Protocol):
    """How a network is stored, as `canon.models.stored_keys.StoredKeys`."""

    def loaded(self, found: Checkpoint) -> Checkpoint: ...

    def stored(self, found: Checkpoint) -> Checkpoint: ...


def transform_file(
    transform: Path,
    source: Path,
    out: Path,
    *,
    kind: str = "network",
    invert: bool = False,
    fan_in_fan_out: bool = False,
    keys_of: Callable[[Checkpoint], Keys | None] = lambda found: None,
) -> int:
    """Write `source`, transformed, to `out`; returns how many tensors it holds.

    `kind` says what the source is; `keys_of` how a network is stored, where its tensors are not those of the class that
    reads them. Raises `InputError` for an unknown kind or where it does not fit.
    """
    found = Transform.load(transform)
    element = found.inverse() if invert else found
    if kind == "optimizer":
        return _carry_optimizer(element, source, out)
    acts: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
        "network": element.apply,
        "task-vector": element.apply_delta,
        "lora": lambda state: element.apply_lora(state, fan_in_fan_out=fan_in_fan_out),
    }
    if kind not in acts:
        raise InputError(f"kind '{kind}' is not known; one of {', '.join([*acts, 'optimizer'])}")
    before = checkpoint.read(source)
    keys = keys_of(before) if kind == "network" else None
    before = before if keys is None else keys.loaded(before)
    after = acts[kind](before.state)
    kept = before.with_state(after) if kind == "network" else Checkpoint(after, before.metadata)
    kept = kept if keys is None else keys.stored(kept)
    checkpoint.write(out, kept, follow=True)
    return len(after)


def _carry_optimizer(element: Transform, source: Path, out: Path) -> int:
    for path in (source, out):
        if checkpoint.check_suffix(path) not in checkpoint.PICKLES:
            raise InputError(f"{path}: optimizer state is a .pt file, what optimizer.state_dict() gives")
    whole = torch_pickle.read(source)
    if not isinstance(whole, dict) or not {"state", "param_groups"} <= whole.keys():
        raise InputError(f"{source} is not an optimizer state; save optimizer.state_dict()")
    with reading(source, "save optimizer.state_dict()"):
        names = parameter_names(whole, element.spec, os.fspath(source))
        by_name = {names[index]: dict(slots) for index, slots in whole["state"].items()}
        moved = element.apply_optimizer(by_name)
        whole["state"] = {index: moved[names[index]] for index in whole["state"]}
    with atomic_open(out, follow=True) as file:
        torch.save(whole, file)
    return sum(isinstance(value, Tensor) for slots in moved.values() for value in slots.values())


def parameter_names(whole: Mapping[str, Any], spec: PermutationSpec, who: str) -> dict[Any, str]:
    """The parameter that every index of an optimizer's state belongs to.

    Taken from `param_names` where the optimizer was given named parameters. Otherwise there must be one
    parameter group, of as many parameters as the spec has, whose states have the spec's shapes in order.
    """
    groups = whole["param_groups"]
    if all("param_names" in group for group in groups):
        return {i: n for group in groups for i, n in zip(group["params"], group["param_names"], strict=True)}
    names = [name for name in spec.axes if name not in spec.statistics]
    fits = len(groups) == 1 and len(groups[0]["params"]) == len(names)
    if fits:
        found = dict(zip(groups[0]["params"], names, strict=True))
        fits = all(
            value.dim() == 0 or tuple(value.shape) == tuple(axis.size for axis in spec.axes[found[index]])
            for index, slots in whole["state"].items()
            for value in slots.values()
            if isinstance(value, Tensor)
        )
    if not fits:
        raise InputError(
            f"{who} does not say which parameter is which; build the optimizer with model.named_parameters()"
        )
    return found
