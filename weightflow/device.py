"""Devices and precisions that computations run in."""

from __future__ import annotations

import torch

from canon.errors import InputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def usable_device(name: str | torch.device) -> torch.device:
    """A device by its name (cpu, cuda, cuda:1, mps); `auto` is an accelerator where there is one.

    `InputError` where this machine has none such.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device
