"""What a module of somebody else must be so that populations of it can be stored, padded and trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from canon.errors import InputError

if TYPE_CHECKING:
    from weightflow.networks.architectures import Architecture


def require_supported(architecture: Architecture, inputs: Tensor) -> None:
    """`InputError`, with the reason, where networks of this architecture would not be kept as they are.

    Args:
        architecture: how the module is built.
        inputs: two examples of the data set, or as many as there are.
    """
    if architecture.is_own:
        return
    who = f"architecture '{architecture.name}'"
    with torch.random.fork_rng(devices=[]):
        module, other = architecture.build().eval(), architecture.build().eval()
    _require_plain_tensors(who, module)
    if architecture.is_resizable:
        with torch.device("meta"):
            wider = architecture.build(architecture.classes + 1)
        _require_one_entry_a_class(who, module.state_dict(), wider.state_dict(), architecture.classes)
    other.load_state_dict(module.state_dict())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            outputs, again = module(inputs), other(inputs)
        except Exception as error:  # any exception of the user's code is an input error
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{who} cannot take examples of shape {tuple(inputs.shape[1:])}: {what}"
            ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(inputs):
        found = f"of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else "no tensor"
        raise InputError(
            f"{who} gives {type(outputs).__name__} for {len(inputs)} examples, {found}; expected one tensor of shape "
            f"({len(inputs)}, classes)"
        )
    if not torch.allclose(outputs, again, equal_nan=True):
        raise InputError(
            f"two networks of {who} with the same state_dict give different outputs: it holds random numbers that are no "
            "parameters or buffers, or draws them when it is called; register them as buffers"
        )


def _require_plain_tensors(who: str, module: nn.Module) -> None:
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            raise InputError(f"{who}: the size of '{name}' is not known before it is called; give it")
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype is not torch.float32):
            raise InputError(
                f"{who}: '{name}' is {str(tensor.dtype).removeprefix('torch.')}; expected float32 "
                "(training.precision=bfloat16 computes in less)"
            )
        if isinstance(tensor, nn.Parameter) and (first := names.setdefault(id(tensor), name)) != name:
            raise InputError(
                f"{who}: '{first}' and '{name}' are one parameter by two names, which a generator would make "
                "different; use the module that holds it twice in forward, under one name"
            )


def _require_one_entry_a_class(
    who: str, state: Mapping[str, Tensor], wider: Mapping[str, Tensor], classes: int
) -> None:
    if state.keys() != wider.keys():
        raise InputError(f"{who} has other tensors for {classes + 1} classes than for {classes}")
    for name, tensor in state.items():
        here, there = tuple(tensor.shape), tuple(wider[name].shape)
        grown = [(a, b) for a, b in zip(here, there, strict=False) if a != b]
        if len(here) != len(there) or len(grown) > 1 or any(pair != (classes, classes + 1) for pair in grown):
            raise InputError(
                f"{who}: '{name}' has the shape {here} for {classes} classes and {there} for {classes + 1}; expected one "
                "axis with one entry a class, and no other that depends on the classes"
            )
