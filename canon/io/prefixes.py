"""Prefixes that wrappers put before every key: `module.` (DistributedDataParallel), `_orig_mod.` (torch.compile), …

Networks are compared and recognised without them, and written back with their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


def chains(keys: Collection[str]) -> list[str]:
    """The prefixes, one wrapper after the other, that all keys share: "", "module.", "module.model.", …"""
    found = [""]
    while keys:
        longer = next((found[-1] + p for p in PREFIXES if _all_start(keys, found[-1] + p)), None)
        if longer is None:
            break
        found.append(longer)
    return found


def internal_prefixes(keys: Collection[str], wanted: Collection[str] | None) -> tuple[str, str]:
    """What to take from the keys of a file, and what to put there: (its own prefix, the network's).

    `wanted` are the keys of the network's code, None where it is not known; then all prefixes are taken.
    """
    own = chains(keys)
    if wanted is None:
        return own[-1], ""
    for theirs in chains(wanted):
        for mine in own:
            if any(theirs + key[len(mine) :] in wanted for key in keys):
                return mine, theirs
    return "", ""


def _all_start(keys: Iterable[str], prefix: str) -> bool:
    return all(key.startswith(prefix) and len(key) > len(prefix) for key in keys)
