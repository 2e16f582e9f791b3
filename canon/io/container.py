"""What trainers put around a state dict: `{"state_dict": …, "epoch": 3, "optimizer": …}`.

A network is written back in the container that it came in, so that it loads wherever it did. Entries that
hold other tensors (optimizers, averages of weights) are left out: they follow the units' old order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from canon.errors import InputError

KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "generator",
)
_AVERAGED = ("ema", "average", "swa", "teacher")


@dataclass(frozen=True)
class Container:
    """The key of the state dict, the entries beside it that are kept, and the names of those left out."""

    key: str
    beside: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def wrap(self, state: Any) -> dict[str, Any]:
        """What is written: the state dict under its key, and the entries beside it."""
        return {**self.beside, self.key: state}


def unwrap(found: Any, path: object) -> tuple[Any, Container | None]:
    """The state dict in what a file holds, and its container where it has one.

    Raises `InputError` where an averaged copy lies beside the state dict: which is meant is not guessed.
    """
    if not isinstance(found, Mapping) or all(isinstance(value, Tensor) for value in found.values()):
        return found, None
    key = next((key for key in KEYS if _is_state(found.get(key))), None)
    states = [str(name) for name, value in found.items() if _is_state(value)]
    if key is None:
        if len(states) != 1:
            return found, None
        key = states[0]
    averaged = [name for name in states if name != key and any(word in name.lower() for word in _AVERAGED)]
    if averaged:
        raise InputError(
            f"{path} holds {key} and {', '.join(averaged)}, which are different networks; save the one that you mean "
            "in a file of its own"
        )
    others = {str(name): value for name, value in found.items() if name != key}
    left_out = tuple(name for name, value in others.items() if _holds_tensors(value))
    beside = {name: value for name, value in others.items() if name not in left_out}
    return found[key], Container(key, beside, left_out)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and len(value) > 0 and all(isinstance(t, Tensor) for t in value.values())
    )


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensors(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensors(item) for item in value)
    return isinstance(value, Tensor)
