"""Types of state dicts and paths, written once."""

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
    """Tensors that are made each time they are asked for, so that one is in memory and not all."""

    def __init__(self, names: Collection[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

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
