"""Devices and precisions that computations run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from canon.errors import InputError
from canon.types import State, StateDict

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_chosen = ContextVar[torch.device | None]("device", default=None)


@contextmanager
def computing_on(device: str | torch.device) -> Iterator[torch.device]:
    """Set the default device for running, training and generating networks within the block.

    What goes in and what comes out stays on the processor.
    """
    found = usable_device(device)
    token = _chosen.set(found)
    try:
        yield found
    finally:
        _chosen.reset(token)


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """A device by its name (cpu, cuda, cuda:1, mps), by default that of `computing_on`.

    `auto` is an accelerator where there is one. `InputError` where this machine has none such.
    """
    if name is None:
        return _chosen.get() or torch.device("cpu")
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # torch goes on with lists and advice
        raise InputError(
            f"device '{name}' cannot be used here: {reason}; the choices are cpu, cuda, cuda:1, mps and auto"
        ) from None
    return device


def on_device(state: State, device: str | torch.device) -> StateDict:
    """The same tensors on a device."""
    return {name: tensor.to(device) for name, tensor in state.items()}
