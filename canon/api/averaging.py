"""Averages of networks and linear interpolation: `merge`, `interpolate`, `barrier`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from canon.alignment import align as align_checkpoints
from canon.api.examples import Examples, as_data
from canon.api.exceptions import (
    Patterns,
    code_of_the_kept,
    excepted,
    not_matched,
    require_weights,
    with_own_of,
)
from canon.api.networks import Model, Network, Path, code_of, prefixes, read_alike, require_alike, sources
from canon.errors import InputError
from canon.matching.registry import MatcherContext, matcher_for
from canon.merging import interpolation
from canon.merging.barriers import barriers
from canon.merging.interpolation import Curve
from canon.merging.merge import merge_networks
from canon.models.loading import require_runnable
from canon.spec import PermutationSpec
from canon.types import no_callback


def merge(
    networks: Iterable[Network] | Network,
    *others: Network,
    weights: Sequence[float] | None = None,
    align: bool = True,
    repair: str = "none",
    train: Examples | None = None,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    method: str = "weights",
    start: str = "auto",
    balance: bool = False,
    batch_size: int = 256,
    order_seed: int | None = None,
    seed: int = 0,
    except_for: Patterns = (),
    advance: Callable[[], object] | None = None,
) -> Any:
    """Average networks, each aligned to the first.

    Args:
        networks: modules, state dicts or paths of files, of one architecture: a list, or one after the other.
        weights: the share of each network; equal shares if not given. They are divided by their sum.
        align: align every network to the first before; if False, the mean of the weights as they are.
        repair: "none"; "norms", rescale each row to the mean row norm of the inputs; "batch-norm", re-estimate
            running statistics; "repair", REPAIR (Jordan et al. 2023, arXiv:2211.08403). The last two need code
            and `train`.
        train: training inputs, or inputs and class numbers, in the forms that `canon.barrier` takes.
        model, example_inputs, spec, family, assume, method, start, balance, batch_size, order_seed, seed: as in
            `canon.align`; a method that runs the network runs it on `train`.
        except_for: as in `canon.align`; the result has those of the first network.
        advance: called after each network, for a progress bar.

    Returns:
        The mean in the kind of the first network: a module for a module, else `Weights`. `report["alignments"]`
        has the report of each alignment, `report["warnings"]` what to know of the result.

    Raises:
        InputError: fewer than two networks, different architectures, or unknown structure.
        WorkError: an aligned network does not compute what it computed.

    Example:
        >>> import canon, torch
        >>> nets = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "abc"]
        >>> mean = canon.merge(nets)
        >>> mean(torch.randn(5, 4)).shape
        torch.Size([5, 2])
        >>> len(mean.report["alignments"])
        2
    """
    several: Any = networks
    if isinstance(networks, (nn.Module, Mapping, str)) or not isinstance(networks, Iterable):
        several = [networks]
    given: list[Any] = [*several, *others]
    if len(given) < 2:
        raise InputError(f"a merge needs two networks or more, found {len(given)}")
    read = read_alike(given, [f"network {i}" for i in range(len(given))])
    left = excepted(read, except_for)
    require_weights(method if align else "weights", left)
    found = with_own_of(read, left, kept=0)
    require_alike(found)
    code, examples = code_of(model, example_inputs, spec, family, assume), as_data(train)
    with code_of_the_kept(left, found[0]):
        resolved = not_matched(code.resolve(*found), left) if align else None
        runnable = code.runnable(*found) if resolved is None else resolved.runnable
    order = None if order_seed is None else torch.Generator().manual_seed(order_seed)
    merged, report = merge_networks(
        [network.found for network in found],
        interpolation.normalized(len(found), weights),
        [network.name for network in found],
        resolved=resolved,
        matcher=matcher_for(method, MatcherContext(start, order, runnable, examples, batch_size))
        if align
        else None,
        balance=balance,
        runnable=runnable,
        repair=repair,
        train=examples,
        batch=batch_size,
        generator=torch.Generator().manual_seed(seed),
        left_out=left,
        advance=advance or no_callback,
    )
    report |= {"prefixes": prefixes(found), "except_for": sorted(left)}
    return found[0].give_back(merged, report)


def interpolate(a: Network, b: Network, weight: float = 0.5) -> Any:
    """The network at (1 − weight) a + weight b, with no alignment; `canon.align` first.

    Args:
        a: a module, a state dict or the path of a file; returned exactly at weight 0.
        b: a network of the same architecture; returned exactly at weight 1.
        weight: the place on the line, any finite number.

    Returns:
        The network, in the kind of `a`. Integer tensors are those of `a`.

    Raises:
        InputError: the networks are different architectures or not finite, or `weight` is not one number.

    Example:
        >>> import canon, torch
        >>> a, b = ({"w": torch.zeros(2)}, {"w": torch.ones(2)})
        >>> canon.interpolate(a, b, 0.25)["w"]
        tensor([0.2500, 0.2500])
    """
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not math.isfinite(weight):
        raise InputError(f"the weight is {weight!r}; expected one finite number: 0 is A, 1 is B")
    first, second = sources((a, b), ("A", "B"))
    state = interpolation.lerp(first.found.state, second.found.state, weight)
    return first.give_back(first.found.with_state(state), {"weight": weight})


def barrier(
    a: Network,
    b: Network,
    data: Examples,
    *,
    align: bool = False,
    repair: str = "none",
    train: Examples | None = None,
    points: int = 11,
    model: Model | None = None,
    example_inputs: Any = None,
    spec: PermutationSpec | Path | None = None,
    family: str | None = None,
    assume: tuple[str, ...] | list[str] | str = (),
    method: str = "weights",
    start: str = "auto",
    balance: bool = False,
    batch_size: int = 256,
    order_seed: int | None = None,
    seed: int = 0,
    advance: Callable[[], object] | None = None,
) -> dict[str, Curve]:
    """Loss and accuracy along the linear path from `a` to `b`.

    The loss barrier is the largest rise of the loss above the straight line between the losses of the ends
    (Frankle et al. 2020, arXiv:1912.05671; Entezari et al. 2022, arXiv:2110.06296).

    Args:
        a: a module, a state dict or the path of a file.
        b: a network of the same architecture.
        data: inputs and class numbers, (examples, …) and (examples,), on which networks are scored: a pair of tensors or
            arrays, a `DataLoader` or another iterable of batches, a data set, or an .npz file with x and y.
        align: also align `b` to `a`, and score that path.
        repair, train: as in `canon.merge`, for the networks between the ends.
        points: points on the path, ends included; at least 3.
        model, example_inputs, spec, family, assume, method, start, balance, batch_size, order_seed, seed: as in
            `canon.align`. The code must be known.
        advance: called after each point, for a progress bar.

    Returns:
        "unaligned" and, with `align`, "aligned": a `Curve` with `weights`, `scores` (mean loss in nats, accuracy
        as a fraction of 1), `loss_barrier` and `accuracy_barrier`.

    Raises:
        InputError: the code of the networks is not known, or the data do not fit it.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> x, y = torch.randn(20, 4), torch.randint(2, (20,))
        >>> curves = canon.barrier(a, b, (x, y), align=True)
        >>> sorted(curves), curves["aligned"].loss_barrier >= 0
        (['aligned', 'unaligned'], True)
    """
    first, second = sources((a, b), ("A", "B"))
    code = code_of(model, example_inputs, spec, family, assume)
    runnable = require_runnable(code.runnable(first, second))
    scored, statistics = as_data(data), as_data(train)
    assert scored is not None
    lines = {"unaligned": (first.found.state, second.found.state)}
    if align:
        order = None if order_seed is None else torch.Generator().manual_seed(order_seed)
        done = align_checkpoints(
            first.found,
            second.found,
            code.resolve(first, second),
            matcher_for(method, MatcherContext(start, order, runnable, statistics, batch_size)),
            balance=balance,
            generator=torch.Generator().manual_seed(seed),
            names=(first.name, second.name),
        )
        lines["aligned"] = (first.found.state, done.aligned.state)
    return barriers(
        runnable,
        lines,
        scored,
        points=points,
        batch=batch_size,
        repair=repair,
        train=statistics,
        advance=advance or no_callback,
    )
