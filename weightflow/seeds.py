"""Validation of seeds: torch takes at most 64 bits, numpy no negative ones."""

from __future__ import annotations

import torch

from canon.errors import InputError

MOST = 2**32
"""The largest seed of a run, a zoo or a backbone: their streams are multiples of it."""


def check_seed(seed: int, least: int = 0, most: int = MOST) -> None:
    """`InputError` where a seed is not between `least` and `most`."""
    if not least <= seed <= most:
        raise InputError(f"seed is {seed}; it is a number from {least} to {most}")


def stream(seed: int) -> torch.Generator:
    """A generator with this seed; `InputError` where it has more than 64 bits."""
    check_seed(seed, -(2**63), 2**63 - 1)
    return torch.Generator().manual_seed(seed)
