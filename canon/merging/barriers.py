"""Loss barriers on linear paths between networks, with optional repair of statistics along the path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from canon.errors import InputError
from canon.io.examples import Data
from canon.merging.activation_repair import repairer
from canon.merging.interpolation import Curve, curve
from canon.models.loading import Runnable
from canon.types import State


def barriers(
    runnable: Runnable,
    lines: Mapping[str, tuple[State, State]],
    data: Data,
    *,
    points: int = 11,
    batch: int = 256,
    repair: str = "none",
    train: Data | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Curve]:
    """Score each named line on `data`; `repair` names what `train` is used for between the ends."""
    data, train = runnable.fitted(data), None if train is None else runnable.fitted(train)
    size = runnable.fixed_batch or batch
    whole = runnable.fixed_batch is not None

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        for x, y in data.batches(size, whole_only=whole):
            if y is None:
                raise InputError("the data has no y; a loss needs classes")
            yield x, y

    found = {}
    for name, (a, b) in lines.items():
        mend = repairer(repair, runnable.module, train, size)

        def between(state: dict[str, Tensor], weight: float, mend=mend, a=a, b=b) -> State:  # type: ignore[no-untyped-def]
            return mend(state, (a, b), (1 - weight, weight))

        found[name] = curve(runnable.module, a, b, batches, points=points, repair=between, advance=advance)
    return found
