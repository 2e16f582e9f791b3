"""The kinds of examples that users pass: tensors, arrays, an .npz file, a data set or its loader."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from canon.errors import InputError
from canon.io.examples import Data, read_data

Array = Tensor | np.ndarray
Examples = (
    Array
    | tuple[Array, Array]
    | list[Any]
    | Data
    | Dataset[Any]
    | DataLoader[Any]
    | Iterable[Any]
    | str
    | os.PathLike[str]
)
"""Inputs; inputs and class numbers; batches of either; a data set of either; or an .npz file with x and y."""

_EXPECTED = (
    "expected inputs, (inputs, class numbers), a DataLoader or another iterable of batches of these, a data set, or the path "
    "of an .npz file with x and y"
)


def as_data(data: Any) -> Data | None:
    """Examples as matching methods and statistics take them; `InputError` says what was found instead."""
    if data is None or isinstance(data, Data):
        return data
    if isinstance(data, str | os.PathLike):
        return read_data(data)
    if isinstance(data, Tensor | np.ndarray):
        return _data(data)
    if isinstance(data, Dataset) and not isinstance(data, Iterable) and hasattr(data, "__len__"):
        data = DataLoader(data, batch_size=256)
    if isinstance(data, tuple | list) and all(isinstance(part, Tensor | np.ndarray) for part in data):
        if len(data) in (1, 2):
            return _data(*data)
        raise InputError(f"data is a {type(data).__name__} of {len(data)} arrays; {_EXPECTED}")
    if isinstance(data, Iterable):
        return _joined(data)
    raise InputError(f"data is a {type(data).__name__}; {_EXPECTED}")


def _joined(batches: Iterable[Any]) -> Data:
    """All batches as one: inputs, or inputs and class numbers."""
    parts = []
    for number, batch in enumerate(batches):
        arrays = batch if isinstance(batch, tuple | list) else (batch,)
        if len(arrays) not in (1, 2) or not all(isinstance(part, Tensor | np.ndarray) for part in arrays):
            kinds = ", ".join(type(part).__name__ for part in arrays)
            raise InputError(f"batch {number} of data holds {kinds or 'nothing'}; {_EXPECTED}")
        parts.append([torch.as_tensor(part) for part in arrays])
    if not parts:
        raise InputError(f"data is empty; {_EXPECTED}")
    if len({len(part) for part in parts}) > 1 or len({tuple(part[0].shape[1:]) for part in parts}) > 1:
        raise InputError("the batches of data differ in their shapes; give examples of one shape")
    return _data(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _data(inputs: Array, classes: Array | None = None) -> Data:
    x = torch.as_tensor(inputs)
    if not x.dim():
        raise InputError("data holds a single number; expected inputs of shape (examples, ...)")
    if x.is_floating_point() and not x.isfinite().all():
        raise InputError("data: the inputs hold NaN or infinity")
    if classes is None:
        return Data(x)
    y = torch.as_tensor(classes)
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        raise InputError(
            f"data: the class numbers are {y.dtype} of shape {tuple(y.shape)}; expected whole numbers of shape ({len(x)},)"
        )
    return Data(x, y.long())
