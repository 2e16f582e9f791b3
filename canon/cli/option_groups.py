"""Options that go together: one parameter of a command, each of its fields an option."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from canon.cli.options import Assume, Balance, Batch, Family, Input, Method, Model, Seed, Spec, Start

if TYPE_CHECKING:
    from canon.io.examples import Data
    from canon.matching.registry import Matcher
    from canon.models.loading import Hints, Runnable


@dataclass(frozen=True)
class HintOptions:
    """What a person may say about a network."""

    spec: Spec = None
    model: Model = None
    family: Family = None
    input: Input = None
    assume: Assume = None

    def hints(self) -> Hints:
        from canon.models.loading import Hints

        return Hints(self.spec, self.model, self.family, self.input, tuple(self.assume or ()))


@dataclass(frozen=True)
class MatchOptions:
    """How networks are matched."""

    method: Method = "weights"
    start: Start = "auto"
    balance: Balance = False
    batch: Batch = 256
    seed: Seed = None

    def matcher(self, runnable: Runnable | None, examples: Data | None) -> Matcher:
        import torch

        from canon.matching.registry import Means, matcher_for

        order = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        return matcher_for(self.method, Means(self.start, order, runnable, examples, self.batch))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: a parameter that is a group gives way to the group's fields."""
    types = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in types.items() if is_dataclass(kind)}
    shown: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if name not in groups:
            shown.append(parameter.replace(annotation=types[name], kind=Parameter.KEYWORD_ONLY))
            continue
        own = get_type_hints(groups[name], include_extras=True)
        shown += [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=own[f.name])
            for f in fields(groups[name])
        ]

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in fields(kind)})
        command(**given)

    flat.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return flat
