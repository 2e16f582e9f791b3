"""The symmetries of one network, and the equivalence of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from canon.api.networks import Model, Network, Path, code_of, source, sources
from canon.equivalence.verdict import same_by_relabelling, same_by_running
from canon.spec import PermutationSpec


@dataclass(frozen=True)
class Inspection:
    """The symmetries of a network and what they rest on.

    Args:
        spec: the groups of units that may be permuted, and which axes of which tensors they move.
        source: where the spec came from.
        verified: whether every group was checked numerically to keep the function, in float64.
        assumptions: what the spec rests on where it was not verified.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> found = canon.inspect(net)
        >>> [group.size for group in found.spec.groups.values()], found.verified
        ([8], True)
    """

    spec: PermutationSpec
    source: str
    verified: bool
    assumptions: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line per group with the tensor axes that it moves, then what is frozen, with reasons."""
        basis = "verified numerically" if self.verified else "assuming " + ", ".join(self.assumptions)
        count = len(self.spec.groups)
        lines = [
            f"{self.source}: {count} group{'s' * (count != 1)}, {basis}"
            if count
            else f"{self.source}: no groups"
        ]
        for name, group in self.spec.groups.items():
            nested = f" within each unit of {group.within}" if group.within else ""
            axes = ", ".join(f"{tensor} axis {number}" for tensor, number in self.spec.uses(name))
            lines.append(f"  {name}: {group.size} units{nested}: {axes}")
        lines += [f"  frozen: {name}: {reason}" for name, reason in self.spec.frozen.items()]
        return "\n".join(lines)


def inspect(
    network: Network,
    *,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
) -> Inspection:
    """The permutation symmetries of a network: what moves, what is frozen, and why.

    Args:
        network: a module, a state dict or the path of a file.
        model, example_inputs, spec, family, assume: as in `canon.align`.

    Returns:
        The spec, with its source and its assumptions.

    Raises:
        InputError: the network is not finite or of unknown structure.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> canon.inspect(net).source
        'traced from the module Sequential'
    """
    resolved = code_of(model, example_inputs, spec, family, assume).resolve(source(network, "the network"))
    return Inspection(resolved.spec, resolved.source, not resolved.assumptions, resolved.assumptions)


@dataclass(frozen=True)
class Equivalence:
    """Whether two networks are the same function; false or undecided counts as false in a condition.

    Args:
        same: True, False, or None where it could not be decided.
        reason: how that was found.
        report: the figures, with the keys of `canon verify --json`.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Linear(4, 2)
        >>> bool(canon.equivalent(net, net))
        True
    """

    same: bool | None
    reason: str
    report: dict[str, Any]

    def __bool__(self) -> bool:
        return bool(self.same)


def equivalent(
    a: Network,
    b: Network,
    *,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    seed: int = 0,
) -> Equivalence:
    """Whether two networks of one architecture are the same function.

    With code, both are run in float64 on random inputs; where weights differ that these do not reach, or outputs by
    no more than rounding, the weights have to agree too. Without code, searches for a permutation and
    rescaling from `a` to `b`: finding one shows equivalence, finding none is inconclusive.

    Args:
        a: a module, a state dict or the path of a file.
        b: a network of the same architecture.
        model, example_inputs, spec, family, assume: as in `canon.align`.
        seed: seed of the random inputs.

    Returns:
        `same`, `reason` and `report`; true in a condition only where the two are the same.

    Raises:
        InputError: the networks are different architectures, not finite or of unknown structure.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> canon.equivalent(canon.align(a, b), b).same, canon.equivalent(a, b).same
        (True, False)
    """
    first, second = sources((a, b), ("A", "B"))
    code = code_of(model, example_inputs, spec, family, assume)
    runnable = code.runnable(first, second)
    if runnable is not None:
        draws = torch.Generator().manual_seed(seed)
        states = first.found.state, second.found.state
        report = same_by_running(*states, runnable, draws, lambda: code.resolve(first, second))
    else:
        report = same_by_relabelling(first.found.state, second.found.state, code.resolve(first, second))
    return Equivalence(report["same"], report["proof"], report)
