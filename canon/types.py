"""Shared types of state dicts and paths."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""A state dict that is read: tensors by name."""

StateDict = dict[str, Tensor]
"""A state dict that is made or returned."""

PathLike = str | os.PathLike[str]
"""A path of a file or folder, as people write it."""


class LazyState(Mapping[str, Tensor]):
    """A mapping whose tensors are computed on access, so that one is in memory at a time.

    `like` has tensors of the same shapes and dtypes.
    """

    def __init__(
        self, names: Collection[str], make: Callable[[str], Tensor], like: State | None = None
    ) -> None:
        self._names, self._make, self.like = dict.fromkeys(names), make, like

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def like(state: State) -> State:
    """Tensors of the shapes and dtypes of those of `state`, at hand."""
    return state.like if isinstance(state, LazyState) and state.like is not None else state


def select_tensors(state: State, names: Collection[str]) -> State:
    """The tensors of `state` that are named, in its order."""
    kept = [name for name in state if name in names]
    if isinstance(state, LazyState):
        return LazyState(kept, state.__getitem__, like(state))
    return {name: state[name] for name in kept}


def no_callback(*arguments: object) -> None:
    """Stands in for a callback that was not given."""
