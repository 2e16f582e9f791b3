"""The matching methods by the names that a command line uses for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from canon.errors import InputError
from canon.io.examples import Data
from canon.matching.result import Match
from canon.models.loading import Runnable, function_at, loaded
from canon.spec import PermutationSpec
from canon.types import State

Matcher = Callable[[PermutationSpec, State, State], Match]


@dataclass(frozen=True)
class MatcherContext:
    """What a method may need: where to start, an order of the groups, the network's code, examples."""

    start: str = "auto"
    generator: torch.Generator | None = None
    runnable: Runnable | None = None
    data: Data | None = None
    batch: int = 256


def weights(means: MatcherContext) -> Matcher:
    """Git Re-Basin's weight matching, with signs; of heads every pair is compared in full."""
    return _by_weights(means, "pairs")


def transfusion(means: MatcherContext) -> Matcher:
    """The same, with heads matched by their singular values."""
    return _by_weights(means, "spectra")


def _by_weights(means: MatcherContext, heads: str) -> Matcher:
    from canon.matching.signed_weight_matching import match_signed

    return lambda spec, a, b: match_signed(
        spec, a, b, start=means.start, generator=means.generator, heads=heads
    )


def activations(means: MatcherContext) -> Matcher:
    """Units that respond alike to the examples."""
    from canon.matching.activation_matching import match_activations

    runnable, data = _running(means, "activations")

    def match(spec: PermutationSpec, a: State, b: State) -> Match:
        examples = (x for x, _ in data.batches(means.batch))
        return match_activations(spec, loaded(runnable.module, a), loaded(runnable.module, b), examples)

    return match


def straight_through(means: MatcherContext) -> Matcher:
    """Git Re-Basin's straight-through estimator: the least loss in the middle, on labelled examples."""
    from canon.matching.straight_through_estimator import straight_through

    runnable, data = _running(means, "straight-through")
    if data.y is None:
        raise InputError("--method straight-through needs classes: an .npz with x and y")
    batches = [(x, y) for x, y in data.batches(means.batch) if y is not None]
    return lambda spec, a, b: straight_through(spec, runnable.module, a, b, batches)


METHODS: dict[str, Callable[[MatcherContext], Matcher]] = {
    "weights": weights,
    "activations": activations,
    "transfusion": transfusion,
    "straight-through": straight_through,
}


def matcher_for(method: str | Matcher, means: MatcherContext) -> Matcher:
    """The matcher that `method` names, or is: `package.module:function` and `file.py:function` are code of one's own.

    Raises `InputError` with the names there are, or where the method needs what `means` lacks.
    """
    if callable(method):
        return _own(method, getattr(method, "__qualname__", type(method).__name__))
    if ":" in method:
        return _own(function_at(method, "--method"), method)
    if method not in METHODS:
        raise InputError(
            f"method '{method}' is not known; one of {', '.join(METHODS)}, or your own: file.py:function"
        )
    return METHODS[method](means)


def _own(function: Callable[..., object], name: str) -> Matcher:
    """A person's function of the groups and two states, whose answer is checked."""

    def match(spec: PermutationSpec, a: State, b: State) -> Match:
        try:
            found = function(spec, a, b)
        except InputError:
            raise
        except Exception as error:  # any exception of the user's code is an input error
            raise InputError(f"--method {name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, Match):
            raise InputError(
                f"--method {name} returned a {type(found).__name__}; expected a canon.Match, from the spec and the "
                "states of A and B"
            )
        return found

    return match


def _running(means: MatcherContext, method: str) -> tuple[Runnable, Data]:
    if means.runnable is None or means.data is None:
        raise InputError(
            f"--method {method} runs the network on examples; give --model and --data (--train in barrier and merge)"
        )
    return means.runnable, means.runnable.fitted(means.data)
