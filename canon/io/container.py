"""Training checkpoints that contain a state dict: `{"state_dict": …, "epoch": 3, "optimizer": …}`.

A network is written back in the container that it came in, so that it loads wherever it did. Entries that
hold other tensors (optimizers, averages of weights) are left out: they follow the units' old order. Single
numbers stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from canon.errors import InputError
from canon.validation import shown

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
# How many models an averaged one is the mean of.
_COUNT = "n_averaged"
# Parts of names of networks that lie beside one: averages of it, and its counterparts.
_OTHERS = ("ema", "average", "swa", "teacher", "student", "discriminator", "critic")


@dataclass(frozen=True)
class Container:
    """The key of the state dict, the entries beside it that are kept, and the names of those left out.

    `inner` is the container under that key, where the state dict lies deeper; `order` that of the entries. Without a
    key the tensors lie among the entries.
    """

    key: Any
    beside: Mapping[Any, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    inner: Container | None = None
    order: tuple[Any, ...] = ()

    def wrap(self, state: Any) -> dict[Any, Any]:
        """The container to write: the state dict under its key, and the kept entries."""
        if self.key is None:
            return {**self.beside, **state}
        whole = {**self.beside, self.key: state if self.inner is None else self.inner.wrap(state)}
        return {name: whole[name] for name in self.order if name in whole}


def unwrap(found: Any, path: object) -> tuple[Any, Container | None]:
    """The state dict in what a file holds, and its container where it has one.

    Raises `InputError` where another network lies beside the state dict: which is meant is not guessed.
    """
    if not isinstance(found, Mapping) or all(isinstance(value, Tensor) for value in found.values()):
        return _without_count(found)
    states = [name for name, value in found.items() if _is_state(value)]
    key = next((key for key in KEYS if key in states), states[0] if states else None)
    if key is None:
        return _unwrap_deeper(found, path)
    unknown = key not in KEYS
    others = [name for name in found if name != key and _is_network(str(name), found[name], found[key])]
    others += [name for name in states if unknown and name != key and name not in others]
    if others:
        raise InputError(
            f"{path} holds {shown(key)} and {', '.join(map(shown, others))}, which are different networks; save the one that you "
            "mean in a file of its own"
        )
    return found[key], _container(found, key)


def _without_count(found: Any) -> tuple[Any, Container | None]:
    """The tensors of an averaged model (`torch.optim.swa_utils`), without the number of models that it counts."""
    counts = isinstance(found, Mapping) and _COUNT in found
    if not counts or not all(str(name).startswith("module.") for name in found if name != _COUNT):
        return found, None
    tensors = {name: tensor for name, tensor in found.items() if name != _COUNT}
    return tensors, Container(None, {_COUNT: found[_COUNT]})


def _unwrap_deeper(found: Mapping[Any, Any], path: object) -> tuple[Any, Container | None]:
    """The state dict in a container within one, as `{"model": {"state_dict": …}}`."""
    keys = [key for key, value in found.items() if "optim" not in str(key) and _leads_to_state(value)]
    known = [key for key in (*KEYS, "checkpoint") if key in keys]
    if not keys:
        return found, None
    key, *others = known or keys
    if others:
        raise InputError(
            f"{path} holds containers of tensors under {', '.join(map(shown, (key, *others)))}; save the network that "
            "you mean in a file of its own"
        )
    state, inner = unwrap(found[key], path)
    outer = _container(found, key)
    left_out = outer.left_out + (() if inner is None else inner.left_out)
    return state, replace(outer, left_out=left_out, inner=inner)


def _leads_to_state(value: Any, deeper: int = 4) -> bool:
    """Whether a container holds a state dict at some depth; those of optimizers hold none."""
    if not isinstance(value, Mapping) or "param_groups" in value or not deeper:
        return False
    return any(_is_state(part) or _leads_to_state(part, deeper - 1) for part in value.values())


def _container(found: Mapping[Any, Any], key: Any) -> Container:
    others = {name: value for name, value in found.items() if name != key}
    left_out = [name for name, value in others.items() if _holds_tensors(value)]
    beside = {name: value for name, value in others.items() if name not in left_out}
    return Container(key, beside, tuple(map(str, left_out)), order=tuple(found))


def _is_network(name: str, value: Any, chosen: Mapping[str, Any]) -> bool:
    """Whether an entry beside the state dict is a network too: by its name, or because it has the same keys."""
    if not _holds_tensors(value):
        return False
    if any(word in name.lower() for word in _OTHERS) or (name in KEYS and _is_state(value)):
        return True
    return _is_state(value) and value.keys() == chosen.keys()


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and len(value) > 0 and all(isinstance(t, Tensor) for t in value.values())
    )


def _holds_tensors(value: Any) -> bool:
    # One number, as a best accuracy, follows no order.
    return any(isinstance(part, Tensor) and part.numel() > 1 for part in parts_of(value))


def parts_of(value: Any) -> Iterator[Any]:
    """`value` and what it holds at any depth, each once: a small file may refer to one list very often."""
    waiting, seen = [value], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, (Mapping, list, tuple)):
            waiting.extend(part.values() if isinstance(part, Mapping) else part)
