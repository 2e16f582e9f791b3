"""The settings of anchors."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError


@dataclass(frozen=True)
class AnchorConfig:
    """Whether the generator's rows are relative to what the class vectors say in closed form."""

    kind: str = "none"

    def __post_init__(self) -> None:
        if self.kind not in ("none", "regression"):
            raise InputError(f"no anchors are called '{self.kind}'; there are: none, regression")
