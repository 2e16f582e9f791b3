"""Tensors in which networks of one architecture may differ: heads of other classes, resized embeddings.

They are not part of the matching. The network that is kept has its own; in the others they give way to those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

from canon.api.networks import Source
from canon.errors import ArchitectureMismatch, InputError
from canon.models.spec_resolution import SpecSource

Patterns = Sequence[str] | str


def excepted(networks: Sequence[Source], patterns: Patterns) -> frozenset[str]:
    """The names of tensors, in any of the networks, that match a pattern.

    A pattern is a name ("fc.weight"), the name of a module ("fc"), or either with `*` and `?` in it. Raises
    `InputError` for one that matches nothing, and where nothing would be left.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    names = {name: None for network in networks for name in network.found.state}
    matched = {pattern: {name for name in names if _matches(name, pattern)} for pattern in given}
    for pattern, found in matched.items():
        if not found:
            raise InputError(
                f"--except {pattern} matches no tensor; names are like {', '.join(list(names)[-3:])}, and * stands for anything"
            )
    every = frozenset[str]().union(*matched.values())
    if every and len(every) == len(names):
        raise InputError(f"--except {' '.join(given)} leaves no tensor to match")
    return every


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def with_own_of(networks: Sequence[Source], names: Collection[str], kept: int) -> list[Source]:
    """The networks with the tensors `names` of the one at `kept` in place of their own.

    Code that has others is that of another network, and is not used.
    """
    own = {name: tensor for name, tensor in networks[kept].found.state.items() if name in names}

    def filled(network: Source) -> Source:
        before = network.found.state
        state = {name: tensor for name, tensor in before.items() if name not in names} | own
        differ = {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in state.items()}
        found = replace(
            network.found, state=state, program=None if differ else network.found.program, versions=None
        )
        return replace(network, found=found, given=state if differ else network.given)

    return [one if n == kept else filled(one) for n, one in enumerate(networks)]


def not_matched(resolved: SpecSource, names: Collection[str]) -> SpecSource:
    """The spec in which the tensors `names` are permuted and not used to match units."""
    spec = resolved.spec
    return replace(resolved, spec=replace(spec, statistics=spec.statistics | (spec.axes.keys() & names)))


@contextmanager
def code_of_the_kept(names: Collection[str], kept: Source) -> Iterator[None]:
    """Where code does not fit, says that it has to build the network whose own tensors are kept."""
    try:
        yield
    except ArchitectureMismatch as error:
        if not names:
            raise
        raise ArchitectureMismatch(
            f"{error}; where networks differ (--except), give code that builds {kept.name}, whose function is kept"
        ) from None


def require_weights(method: str, names: Collection[str]) -> None:
    """`InputError` for methods that run networks: A's own tensors are needed for that."""
    if names and method not in ("weights", "transfusion"):
        raise InputError(
            f"--method {method} runs the networks, and --except leaves tensors of them out; use --method weights"
        )
