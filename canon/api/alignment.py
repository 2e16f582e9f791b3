"""Alignment and canonical forms: `align`, `canonicalize`, `balance`."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import torch
from torch import nn

from canon import alignment
from canon.api.examples import Examples, as_data
from canon.api.exceptions import (
    Patterns,
    code_of_the_kept,
    excepted,
    not_matched,
    require_weights,
    with_own_of,
)
from canon.api.networks import (
    Model,
    Network,
    Path,
    Weights,
    code_of,
    prefixes,
    read_alike,
    require_alike,
    source,
)
from canon.matching.registry import MatcherContext, matcher_for
from canon.spec import PermutationSpec
from canon.types import State

M = TypeVar("M", bound=nn.Module)


@overload
def align(
    a: Network,
    b: M,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    method: str = ...,
    start: str = ...,
    data: Examples | None = ...,
    balance: bool = ...,
    batch_size: int = ...,
    order_seed: int | None = ...,
    seed: int = ...,
    except_for: Patterns = ...,
) -> M: ...


@overload
def align(
    a: Network,
    b: State | Path,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    method: str = ...,
    start: str = ...,
    data: Examples | None = ...,
    balance: bool = ...,
    batch_size: int = ...,
    order_seed: int | None = ...,
    seed: int = ...,
    except_for: Patterns = ...,
) -> Weights: ...


def align(
    a: Network,
    b: Network,
    *,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    method: str = "weights",
    start: str = "auto",
    data: Examples | None = None,
    balance: bool = False,
    batch_size: int = 256,
    order_seed: int | None = None,
    seed: int = 0,
    except_for: Patterns = (),
) -> Any:
    """Permute the hidden units of `b` so that its weights lie close to those of `a`.

    The function of `b` is kept. Git Re-Basin (Ainsworth et al. 2023, arXiv:2209.04836).

    Args:
        a: the network whose order of units is taken: a module, a state dict or the path of a file.
        b: the network that is permuted, of the same architecture.
        model: the code of both, where neither is a module: a module, a callable that returns one (or one and
            its example inputs), or "package.module:function".
        example_inputs: a tensor, a tuple of the arguments of one call, or a dict of named ones; the symmetries are
            read from the graph of that call. Not needed for modules that begin with a linear layer.
        spec: the symmetries, or the path of a JSON file of them, instead of code. Taken as an assumption.
        family: the name of an architecture family, for state dicts without code.
        assume: what keys and shapes do not tell, such as "heads=12"; see `canon align --help`.
        method: "weights"; "transfusion", where heads of attention are matched by their singular values;
            "activations" or "straight-through".
        start: where matching starts; "auto" tries several and keeps the best.
        data: examples for the methods that run the network, in the forms that `canon.barrier` takes.
        balance: match in balanced scales, and give the units of the result the scales of those of `a`.
        batch_size: examples in a batch of `data`.
        order_seed: visit groups in a random order of this seed, not in the network's own.
        seed: seed of the random inputs on which functions are compared.
        except_for: names of tensors or modules, `*` for anything, in which the two may differ, such as heads of other
            classes: no part of the matching. The result has those of `b`, in its new order.

    Returns:
        A copy of `b`, aligned: a module for a module, else `Weights`, a state dict. Its `report` is a dict with
        `objective_before`, `objective_after`, `moved_fraction` (of 1), `verified`, `assumptions` and more; its
        `transform` can be applied to what belongs to `b`.

    Raises:
        InputError: the networks are different architectures, not finite, or of unknown structure.
        WorkError: the result does not compute what `b` computes.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> aligned = canon.align(a, b)
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(aligned(x), b(x), atol=1e-6)
        True
        >>> aligned.report["objective_after"] >= aligned.report["objective_before"]
        True
    """
    both = read_alike((a, b), ("A", "B"), kept=1)
    left = excepted(both, except_for)
    require_weights(method, left)
    first, second = with_own_of(both, left, kept=1)
    require_alike((first, second))
    # Where the two differ, the structure and the configuration are those of the network that is kept.
    known = (second, first) if left else (first, second)
    with code_of_the_kept(left, second):
        resolved = not_matched(code_of(model, example_inputs, spec, family, assume).resolve(*known), left)
    order = None if order_seed is None else torch.Generator().manual_seed(order_seed)
    matcher = matcher_for(method, MatcherContext(start, order, resolved.runnable, as_data(data), batch_size))
    done = alignment.align(
        first.found,
        second.found,
        resolved,
        matcher,
        balance=balance,
        generator=torch.Generator().manual_seed(seed),
        names=(first.name, second.name),
    )
    report = done.report | {"prefixes": prefixes((first, second)), "except_for": sorted(left)}
    return second.give_back(done.aligned, report, done.transform)


@overload
def canonicalize(
    network: M,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    fold: bool = ...,
    seed: int = ...,
) -> M: ...


@overload
def canonicalize(
    network: State | Path,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    fold: bool = ...,
    seed: int = ...,
) -> Weights: ...


def canonicalize(
    network: Network,
    *,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    fold: bool = False,
    seed: int = 0,
) -> Any:
    """Sort the hidden units of a network into a canonical order.

    All permuted copies of a network give the same bits; units of odd activations (tanh, sin) also get
    canonical signs. The function is kept.

    Args:
        network: a module, a state dict or the path of a file.
        model, example_inputs, spec, family, assume: as in `canon.align`.
        fold: let linear layers and convolutions take the gains and biases of the norms before them, and the
            scale that a batch norm absorbs.
        seed: seed of the random inputs on which functions are compared.

    Returns:
        A copy in canonical order: a module for a module, else `Weights`; with `report` and `transform` (None
        where norms were folded, which is not a permutation).

    Raises:
        InputError: the network is not finite or of unknown structure; `fold` without code.
        WorkError: the result does not compute what the network computes.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> ordered = canon.canonicalize(net)
        >>> again = canon.canonicalize(ordered)
        >>> all(torch.equal(p, q) for p, q in zip(ordered.parameters(), again.parameters()))
        True
    """
    found = source(network, "the network")
    resolved = code_of(model, example_inputs, spec, family, assume).resolve(found)
    draws = torch.Generator().manual_seed(seed)
    if fold:
        folded, report = alignment.folded_form(found.found, resolved, draws)
        return found.give_back(folded, report)
    done = alignment.canonical_form(found.found, resolved, draws)
    return found.give_back(done.aligned, done.report, done.transform)


@overload
def balance(
    network: M,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    seed: int = ...,
) -> M: ...


@overload
def balance(
    network: State | Path,
    *,
    model: Model | None = ...,
    example_inputs: Any = ...,
    spec: PermutationSpec | Path | None = ...,
    family: str | None = ...,
    assume: tuple[str, ...] | list[str] | str = ...,
    seed: int = ...,
) -> Weights: ...


def balance(
    network: Network,
    *,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    seed: int = 0,
) -> Any:
    """Rescale the units of ReLU layers to the least sum of squared weights.

    A ReLU unit may be multiplied by a positive number where what reads it is divided by the same. Of all such copies of a
    network one has the smallest norm (Stock et al. 2019, arXiv:1902.10416). The function is kept.

    Args:
        network: a module, a state dict or the path of a file.
        model, example_inputs, spec, family, assume: as in `canon.align`.
        seed: seed of the random inputs on which functions are compared.

    Returns:
        A copy in balanced scales: a module for a module, else `Weights`; with `report` (`sum_of_squares_before`,
        `sum_of_squares_after`, `verified` and more) and `transform`.

    Raises:
        InputError: the network is not finite or of unknown structure.
        WorkError: the result does not compute what the network computes.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> balanced = canon.balance(net)
        >>> balanced.report["sum_of_squares_after"] <= balanced.report["sum_of_squares_before"]
        True
        >>> canon.equivalent(net, balanced).same
        True
    """
    found = source(network, "the network")
    resolved = code_of(model, example_inputs, spec, family, assume).resolve(found)
    done = alignment.balanced_form(found.found, resolved, torch.Generator().manual_seed(seed))
    return found.give_back(done.aligned, done.report, done.transform)
