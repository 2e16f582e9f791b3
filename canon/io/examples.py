"""Examples for matching by activations, for loss barriers and for statistics: an .npz with x and y."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.files import require_file


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
    require_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y") if name in file}
    except (ValueError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no .npz of plain arrays ({error}); write np.savez(path, x=x, y=y)"
        ) from None
    wanted = ("x", "y") if labels else ("x",)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; write np.savez(path, x=inputs, y=classes)")
    x = torch.from_numpy(arrays["x"])
    x = x.float() if x.is_floating_point() else x.long()
    if x.is_floating_point() and not x.isfinite().all():
        raise InputError(f"{path}: x holds NaN or infinity")
    y = torch.from_numpy(arrays["y"]).long() if "y" in arrays else None
    if y is not None and len(y) != len(x):
        raise InputError(f"{path}: x has {len(x)} examples, y has {len(y)}")
    return Data(x, y)
