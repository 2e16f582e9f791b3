"""The settings of anchors."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError


@dataclass(frozen=True)
class AnchorConfig:
    """Whether the generator's rows are relative to what the class vectors say in closed form.

    At every step of training a share of the classes, drawn up to `hide` for each network, is treated as if
    nobody had seen it: its anchor comes from the other classes, and its rows move there.
    """

    kind: str = "none"
    hide: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "regression"):
            raise InputError(f"no anchors are called '{self.kind}'; there are: none, regression")
        if not 0 <= self.hide <= 1:
            raise InputError(f"setting 'anchors.hide' is {self.hide}; it is a share from 0 to 1")
