"""The one object that every source yields: inputs, labels, names, and three splits that stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from weightflow.names import suggest


@dataclass(frozen=True)
class Preprocessing:
    """`(x / divisor - mean) / std`; mean and std come from training inputs alone."""

    divisor: float
    mean: float
    std: float

    def __call__(self, inputs: Tensor) -> Tensor:
        return (inputs.float() / self.divisor - self.mean) / self.std


@dataclass(frozen=True)
class Split:
    """Preprocessed inputs (examples, *shape) and labels (examples,) that index the class names."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class SealedSplit:
    """Test examples. Only `weightflow.evaluate` opens them; a test walks the sources to see to it."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def open_for_evaluation(self) -> Split:
        return self._split

    def __len__(self) -> int:
        return len(self._split)


@dataclass(frozen=True)
class ClassificationData:
    """Real examples of named classes. Validation is cut from training data, never from test data."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: SealedSplit
    preprocessing: Preprocessing
    licence: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.inputs.shape[1:])

    def class_index(self, names: Sequence[str]) -> list[int]:
        """Labels of classes by name; `InputError` names the nearest known classes."""
        known = {name: index for index, name in enumerate(self.class_names)}
        for name in names:
            if name not in known:
                raise InputError(
                    f"data set '{self.name}' has no class '{name}'; nearest: {suggest(name, self.class_names)}"
                )
        return [known[name] for name in names]


def stratified_parts(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Disjoint index sets that cover `labels`, each with the same share of every class.

    Part i gets `fractions[i]` of each class, rounded; the last part takes what is left.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(fractions) * len(rows)).astype(int)
        for part, chunk in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def from_arrays(
    name: str,
    class_names: Sequence[str],
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    divisor: float,
    licence: str,
    per_feature: bool = False,
    test_fraction: float = 0.25,
    validation_fraction: float = 0.15,
    seed: int = 0,
) -> ClassificationData:
    """Split one table of examples by a fixed seed and standardise it by its training part."""
    test, validation, train = stratified_parts(labels, [test_fraction, validation_fraction], seed)
    scaled = torch.from_numpy(inputs[train]).float() / divisor
    if per_feature:
        inputs = (inputs - inputs[train].mean(axis=0)) / inputs[train].std(axis=0)
        preprocessing = Preprocessing(1.0, 0.0, 1.0)
    else:
        preprocessing = Preprocessing(divisor, float(scaled.mean()), float(scaled.std()))

    def split(rows: np.ndarray) -> Split:
        return Split(
            preprocessing(torch.from_numpy(inputs[rows])), torch.from_numpy(labels[rows].astype(np.int64))
        )

    return ClassificationData(
        name=name,
        class_names=tuple(class_names),
        train=split(train),
        validation=split(validation),
        test=SealedSplit(split(test)),
        preprocessing=preprocessing,
        licence=licence,
    )
