"""Prefixes that wrappers put before every key: `module.` (DistributedDataParallel), `_orig_mod.` (torch.compile), …

Networks are compared without them, and written back with those of the network that is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from canon.io.checkpoint import Checkpoint

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_WRAPPERS = ("_orig_mod", "module")


def chains(keys: Collection[str]) -> list[str]:
    """The prefixes, one wrapper after the other, that all keys share: "", "module.", "module.model.", …"""
    found = [""]
    while keys:
        longer = next((found[-1] + p for p in PREFIXES if _all_start(keys, found[-1] + p)), None)
        if longer is None:
            break
        found.append(longer)
    return found


def between(keys: Collection[str], wanted: Collection[str]) -> tuple[str, str]:
    """What to take from the front of `keys`, and what to put there, so that most of them are among `wanted`.

    Nothing where as many are among them already.
    """
    known = set(wanted)
    pairs = [(own, theirs) for own in chains(keys) for theirs in chains(wanted)]
    return max(pairs, key=lambda pair: sum(pair[1] + key[len(pair[0]) :] in known for key in keys))


def with_keys_like(found: Checkpoint, wanted: Collection[str]) -> tuple[Checkpoint, str, str]:
    """`found` with the prefix of the keys `wanted`, the prefix that it had in its place, and that one."""
    own, theirs = between(found.state, wanted)
    if own == theirs or found.program is not None:
        return found, "", ""
    state = {theirs + key[len(own) :]: tensor for key, tensor in found.state.items()}
    return replace(found, state=state, versions=None), own, theirs


class _Prefixed(nn.Module):
    """A network under a name of its own, as wrappers hold theirs."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, module)

    @property
    def inner(self) -> nn.Module:
        return self.get_submodule(self._name)

    def forward(self, *inputs: object, **named: object) -> object:
        return self.inner(*inputs, **named)


def module_like(module: nn.Module, wanted: Collection[str]) -> nn.Module:
    """`module` without the wrappers of torch, or in others, so that its keys have the prefix of `wanted`."""
    keys = module.state_dict().keys()
    own, theirs = between(keys, wanted)
    for name in own.split(".")[:-1]:
        if name not in _WRAPPERS or not isinstance(getattr(module, name, None), nn.Module):
            return module  # other wrappers may compute something else
        module = getattr(module, name)
    for name in reversed(theirs.split(".")[:-1]):
        module = _Prefixed(module, name)
    return module


def prefix_of(module: nn.Module) -> str:
    """What `module_like` put before the keys of a module."""
    return f"{module._name}.{prefix_of(module.inner)}" if isinstance(module, _Prefixed) else ""


def _all_start(keys: Collection[str], prefix: str) -> bool:
    return all(key.startswith(prefix) and len(key) > len(prefix) for key in keys)
