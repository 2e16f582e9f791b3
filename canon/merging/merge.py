"""Merge networks: align each to the first, average, repair the statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from canon.alignment import align
from canon.errors import InputError
from canon.io.checkpoint import Checkpoint, require_finite, require_same
from canon.io.examples import Data
from canon.matching.registry import Matcher
from canon.merging.activation_repair import BATCH_NORMS, repairer
from canon.merging.interpolation import merge, merge_lazily
from canon.models.loading import Runnable, is_large
from canon.models.spec_resolution import SpecSource
from canon.types import LazyState, State, like


def parse_weights(text: str | None, count: int) -> list[float]:
    """ "0.7,0.3" as shares, one for each of `count` networks; equal shares where nothing was said."""
    if count < 2:
        raise InputError("a merge needs two networks or more")
    if text is None:
        return [1 / count] * count
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--weights {text}: write numbers with commas between, as 0.7,0.3") from None
    if len(found) != count or not 0 < sum(found) < float("inf"):
        raise InputError(f"--weights {text}: expected {count} numbers with a positive sum")
    return [weight / sum(found) for weight in found]


def merge_networks(
    networks: Sequence[Checkpoint],
    weights: Sequence[float],
    names: Sequence[str],
    *,
    resolved: SpecSource | None = None,
    matcher: Matcher | None = None,
    balance: bool = False,
    runnable: Runnable | None = None,
    repair: str = "none",
    train: Data | None = None,
    batch: int = 256,
    generator: torch.Generator,
    left_out: Collection[str] = (),
    advance: Callable[[], object] = lambda: None,
) -> tuple[Checkpoint, dict[str, Any]]:
    """The mean of `networks` as a file like the first one's, and a report with warnings.

    With `resolved` and `matcher` every other network is aligned to the first before. The tensors `left_out` are
    the first's in all of them. Raises
    `InputError` where they are different architectures or not finite.
    """
    first = networks[0]
    for network, name in zip(networks, names, strict=True):
        require_same(first.state, network.state, names[0], name)
        require_finite(network.state, name)
    _require_averages([network.state for network in networks], names)
    module = None if runnable is None else runnable.module
    if runnable is not None and train is not None:
        train = runnable.fitted(train)
    lazily = is_large(first.state) and not first.holds_ties
    mend = repairer(repair, module, train, batch, lazily)
    states: list[State] = [first.state]
    reports = []
    for network, name in zip(networks[1:], names[1:], strict=True):
        state = network.state
        if resolved is not None and matcher is not None:
            both = (names[0], name)
            done = align(first, network, resolved, matcher, balance=balance, generator=generator, names=both)
            state = _with_those_of(first.state, done.aligned.state, left_out)
            reports.append(done.report)
        states.append(state)
        advance()
    merged = mend(merge_lazily(states, weights) if lazily else merge(states, weights), states, weights)
    assumptions = list(dict.fromkeys(text for report in reports for text in report["assumptions"]))
    return first.with_state(merged), {
        "networks": list(names),
        "weights": list(weights),
        "alignments": reports,
        "assumptions": assumptions,
        "repair": repair,
        "warnings": [*_not_aligned(names[1:], reports), *_warnings(first, module, repair)],
    }


def _require_averages(states: Sequence[State], names: Sequence[str]) -> None:
    """`InputError` where networks hold quantized weights: a mean of integers, or of weights beside scales, is none."""
    first = like(states[0])
    for name, tensor in first.items():
        if tensor.dim() < 2 or (tensor.is_floating_point() and tensor.itemsize > 1) or tensor.is_complex():
            continue
        scales = [key for key in first if key.startswith(f"{name}_scale") or key.startswith(f"{name}.")]
        others = names[1:] if scales else _differing(states, names, name)
        if others and (scales or not tensor.is_floating_point()):
            beside = f" with {scales[0]} beside it" if scales else f" and differs in {others[0]}"
            raise InputError(
                f"{names[0]}: {name} is of {tensor.dtype}{beside}: quantized weights have no mean; give both "
                "networks in a floating dtype"
            )


def _differing(states: Sequence[State], names: Sequence[str], name: str) -> list[str]:
    """The networks in which an integer tensor is another than in the first."""
    if states[0][name].is_floating_point():
        return []
    return [
        who
        for state, who in zip(states[1:], names[1:], strict=True)
        if not torch.equal(state[name], states[0][name])
    ]


def _with_those_of(first: State, state: State, left_out: Collection[str]) -> State:
    """`state`, the tensors `left_out` those of `first`."""
    theirs = {key for key in left_out if key in first}
    made = LazyState(state, lambda name: first[name] if name in theirs else state[name], like(state))
    return made if isinstance(state, LazyState) else dict(made)


def _not_aligned(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> list[str]:
    """Warn of networks without permutable units: their average is one of unaligned networks."""
    return [
        f"{name} was not aligned: {report['nothing_moved_because']}"
        for name, report in zip(names, reports, strict=False)
        if not report["groups"]
    ]


def _warnings(first: Checkpoint, module: nn.Module | None, repair: str) -> list[str]:
    normed = any(name.endswith("running_var") for name in first.state) or (
        module is not None and any(isinstance(part, BATCH_NORMS) for part in module.modules())
    )
    if repair in ("none", "norms") and normed:
        return [
            "the running statistics are means of the networks', which no network has; "
            "re-estimate them: --repair batch-norm --model … --train x.npz"
        ]
    return []
