"""The matching methods by the names that a command line uses for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from canon.data import Data
from canon.errors import InputError
from canon.match import Match
from canon.runnable import Runnable
from canon.spec import PermutationSpec

Matcher = Callable[[PermutationSpec, Mapping[str, Tensor], Mapping[str, Tensor]], Match]


def weights(
    start: str, generator: torch.Generator, runnable: Runnable | None, data: Data | None, batch: int
) -> Matcher:
    """Git Re-Basin's weight matching, from `start`."""
    from canon.weight_matching import match_weights

    return lambda spec, a, b: match_weights(spec, a, b, start=start, generator=generator)


METHODS = {"weights": weights}


def matcher_for(
    method: str,
    *,
    start: str,
    generator: torch.Generator,
    runnable: Runnable | None = None,
    data: Data | None = None,
    batch: int = 256,
) -> Matcher:
    """The matcher that `method` names. Raises `InputError` with the names there are."""
    if method not in METHODS:
        raise InputError(f"method '{method}' is not known; one of {', '.join(METHODS)}")
    return METHODS[method](start, generator, runnable, data, batch)
