"""What a family is, and how a checkpoint becomes a spec through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.models.families.attention import Attention, number_of_heads, without_heads
from canon.models.families.functional import Sketch, Tensors
from canon.spec import PermutationSpec
from canon.tracing.trace import trace


@dataclass(frozen=True)
class Family:
    """The network's function, what a checkpoint must hold, the smallest input, and where it attends.

    `forward` takes the tensors, the input and the number of heads (1 where it attends nowhere).
    """

    forward: Callable[[Tensors, Tensor, int], Any]
    fits: Callable[[Tensors], bool]
    input: Callable[[Tensors], Tensor]
    attention: Attention | None = None


def has(*keys: str) -> Callable[[Tensors], bool]:
    """Does a checkpoint hold all of these?"""
    return lambda tensors: all(key in tensors for key in keys)


def has_under(prefix: str, key: str) -> Callable[[Tensors], bool]:
    """Does a checkpoint hold the key, with or without the prefix?"""
    return lambda tensors: key in tensors or prefix + key in tensors


def sketched(
    family: Family, state: Mapping[str, Tensor], metadata: Mapping[str, str], prove: bool
) -> PermutationSpec:
    """The spec of `state` as one of the family; `InputError` says what is missing, left over or does not fit."""
    tensors = Tensors(state)
    attention = family.attention
    heads = None if attention is None else number_of_heads(attention, tensors, metadata)
    try:
        example = family.input(tensors)
        with torch.no_grad():
            family.forward(tensors, example, heads or 1)
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing") from None
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"the shapes do not fit: {str(error).splitlines()[0]}") from None
    unread = [key for key in state if key not in tensors.read and not key.endswith("num_batches_tracked")]
    if unread:
        raise InputError(f"it has no {', '.join(unread[:3])}")
    sketch = Sketch(state, lambda given, x: family.forward(given, x, heads or 1))
    spec = trace(sketch, (example,), prove=prove)
    return spec if heads or attention is None else without_heads(attention, spec)
