"""Examples for matching by activations, for loss barriers and for statistics: an .npz with x and y."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.arrays import read_npz


@dataclass(frozen=True)
class Data:
    """`x` (examples, …), floats or token ids; `y` (examples,) class numbers, or None."""

    x: Tensor
    y: Tensor | None = None

    def batches(self, size: int, *, whole_only: bool = False) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Consecutive batches of `size`; `whole_only` leaves out a last one that is shorter."""
        end = len(self.x) - len(self.x) % size if whole_only else len(self.x)
        if end == 0:
            raise InputError(f"the data holds {len(self.x)} examples, fewer than one batch of {size}")
        for start in range(0, end, size):
            stop = min(start + size, end)
            yield self.x[start:stop], None if self.y is None else self.y[start:stop]


def read_data(path: str | os.PathLike[str], *, labels: bool = False) -> Data:
    """Read `x`, and `y` where it is there; `InputError` where the file is not such a file."""
    arrays = read_npz(path)
    wanted = ("x", "y") if labels else ("x",)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; write np.savez(path, x=inputs, y=classes)")
    if arrays["x"].dtype.kind in "US":
        raise InputError(f"{path}: x holds text; expected numbers")
    x = torch.from_numpy(arrays["x"])
    x = x.float() if x.is_floating_point() else x.long()
    if x.is_floating_point() and not x.isfinite().all():
        raise InputError(f"{path}: x holds NaN or infinity")
    y = _labels(path, arrays["y"]) if "y" in arrays else None
    if y is not None and len(y) != len(x):
        raise InputError(f"{path}: x has {len(x)} examples, y has {len(y)}")
    return Data(x, y)


def _labels(path: str | os.PathLike[str], y: np.ndarray) -> Tensor:
    if y.ndim != 1 or y.dtype.kind not in "iuf" or (y.size and not _are_classes(y)):
        raise InputError(
            f"{path}: y is {y.dtype} of shape {y.shape}; expected one class number, from 0, an example"
        )
    return torch.from_numpy(y.astype(np.int64))


def _are_classes(y: np.ndarray) -> bool:
    return bool(np.isfinite(y).all() and (y >= 0).all() and (y < 2**31).all() and (y == np.floor(y)).all())
