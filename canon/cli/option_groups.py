"""Groups of options: one parameter of a command whose fields are its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from canon.cli.options import Assume, Balance, Batch, Family, Input, Method, Model, Seed, Spec, Start


@dataclass(frozen=True)
class HintOptions:
    """Options that describe a network."""

    spec: Spec = None
    model: Model = None
    family: Family = None
    input: Input = None
    assume: Assume = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of canon's functions that say the same."""
        given = {"model": self.model, "family": self.family, "assume": tuple(self.assume or ())}
        return given | {"spec": self.spec, "example_inputs": self._inputs()}

    def _inputs(self) -> Any:
        if self.input is None:
            return None
        from canon.errors import InputError
        from canon.models.loading import parse_input

        if self.model is None:
            raise InputError("--input says what a --model takes; give a --model too")
        return parse_input(self.input)


@dataclass(frozen=True)
class MatchOptions:
    """How networks are matched."""

    method: Method = "weights"
    start: Start = "auto"
    balance: Balance = False
    batch: Batch = 256
    seed: Seed = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of canon's functions that say the same."""
        return {
            "method": self.method,
            "start": self.start,
            "balance": self.balance,
            "batch_size": self.batch,
            "order_seed": self.seed,
        }


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Rewrite a command for typer: replace each option group by its fields."""
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
