"""The family interface: recognize a bare checkpoint and derive its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.models.families.functional import FunctionalModule, Tensors
from canon.models.families.hyperparameters import Hyperparameters
from canon.spec import Axis, PermutationSpec
from canon.tracing.symmetry_groups import trace_recorded
from canon.types import LazyState


class FamilyMismatch(InputError):
    """The checkpoint is not one of the family."""


@dataclass(frozen=True)
class Family:
    """The network's function, what a checkpoint must hold, and the smallest input.

    `forward` takes the tensors, the input and the hyperparameters, of which it uses those named in `takes`.
    `name` is the public architecture whose keys and shapes these are, all of them, or None: then nothing is
    known of how the tensors are used, and all of them stay in place, unless a person named the family or
    assumed `decisive`. `unknown` says in a report what is not known. `width` gives the width that heads divide.
    """

    forward: Callable[[Tensors, Tensor, Hyperparameters], Any]
    fits: Callable[[Tensors], bool]
    input: Callable[[Tensors], Tensor]
    name: Callable[[Tensors], str | None]
    takes: tuple[str, ...] = ()
    decisive: str | None = None
    unknown: str = "keys and shapes do not tell how the tensors are used"
    width: Callable[[Tensors], int] | None = None


@dataclass(frozen=True)
class Recognition:
    """The spec of a checkpoint, the assumptions under which it keeps the function, and who made them.

    `stated` is true where every assumption is a person's; `prefix` stands before all keys, as a wrapper's.
    """

    spec: PermutationSpec
    assumptions: tuple[str, ...] = ()
    stated: bool = False
    prefix: str = ""


def has(*keys: str) -> Callable[[Tensors], bool]:
    """Does a checkpoint hold all of these?"""
    return lambda tensors: all(key in tensors for key in keys)


def has_with_prefix(prefix: str, key: str) -> Callable[[Tensors], bool]:
    """Does a checkpoint hold the key, with or without the prefix?"""
    return lambda tensors: key in tensors or prefix + key in tensors


def functional_spec(
    label: str, family: Family, state: Mapping[str, Tensor], given: Hyperparameters, named: bool, verify: bool
) -> Recognition:
    """The spec of `state` as one of the family, which a person named or not.

    Raises `FamilyMismatch` that says what is missing, left over or does not fit, and `InputError` for an assumption
    that contradicts the tensors.
    """
    _check_taken(label, family, given)
    with _mismatches():
        width = None if family.width is None else family.width(Tensors(state))
        name = family.name(Tensors(state))
    if width is not None:
        given.check_width(width)
    decided = family.decisive is not None and getattr(given, family.decisive)
    if name is None and not named and not decided:
        return Recognition(nothing_moves(state, family.unknown), stated=False)
    _check_dtypes(state)
    tensors = Tensors(state)
    # Files may mix dtypes, or hold another than the example's: for shapes one serves.
    alike = Tensors(LazyState(state, lambda key: _in_float32(state[key])), read=tensors.read)
    with _mismatches(), torch.no_grad():
        example = family.input(alike)
        family.forward(alike, example, given)
    unread = [key for key in state if key not in tensors.read and not key.endswith("num_batches_tracked")]
    if unread:
        raise FamilyMismatch(f"it has no {', '.join(unread[:3])}")
    sketch = FunctionalModule(state, lambda held, x: family.forward(held, x, given))
    spec = trace_recorded(sketch, (example,), verify=verify)
    architecture: tuple[str, ...]
    if named:
        architecture = (f"the family {label} (--family)",)
    else:
        architecture = () if decided or name is None else (f"the {name} architecture (keys and shapes fit)",)
    used = given.said(family.takes)
    stated = (named or bool(decided)) and all(
        given.origins[n] == "--assume" for n in given.origins if n in family.takes
    )
    return Recognition(spec, architecture + used, stated)


@contextmanager
def _mismatches() -> Iterator[None]:
    """Within the block, tensors that are missing or of other shapes become `FamilyMismatch`."""
    try:
        yield
    except KeyError as error:
        raise FamilyMismatch(f"{error.args[0]} is missing") from None
    except ValueError as error:  # of our own families, which say what is the matter
        raise FamilyMismatch(str(error).splitlines()[0]) from None
    except (RuntimeError, IndexError) as error:
        raise FamilyMismatch(f"the shapes do not fit: {str(error).splitlines()[0]}") from None


def _check_dtypes(state: Mapping[str, Tensor]) -> None:
    """Raise `FamilyMismatch` for a weight that is complex or a whole number: families compute with real numbers."""
    for key, tensor in state.items():
        if key.rpartition(".")[2] == "weight" and not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise FamilyMismatch(f"{key} is of dtype {dtype}, and weights are real numbers")


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def nothing_moves(state: Mapping[str, Tensor], reason: str) -> PermutationSpec:
    """A spec without groups."""
    axes = {name: tuple(Axis.fixed(size) for size in tensor.shape) for name, tensor in state.items()}
    return PermutationSpec({}, axes, frozen={"every tensor": reason})


def _check_taken(label: str, family: Family, given: Hyperparameters) -> None:
    for name, origin in given.origins.items():
        if origin == "--assume" and name not in family.takes:
            takes = ", ".join(name.replace("_", "-") for name in family.takes) or "no assumption"
            raise InputError(f"--assume {name.replace('_', '-')}: {label} takes {takes}; leave it out")
