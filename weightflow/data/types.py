"""The common data-set type: inputs, labels, class names, and three disjoint splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from canon.validation import (
    Check,
    Invalid,
    either,
    items,
    many,
    number,
    positive,
    record,
    shown,
    text,
)
from weightflow.data.class_groups import labels_of_classes
from weightflow.data.partition import content_keys, fingerprint, parts_by_content, stratified_parts
from weightflow.registry import suggest

NAME = text(limit=1000)
"""Of a class or a data set, as files keep it."""


def check_name(what: str, name: str) -> None:
    """`InputError` where `name` cannot be kept in a file: found out before the work, not when the file is read."""
    try:
        NAME(name)
    except Invalid:
        found = f"{len(name)} characters" if len(name) > 1000 else "control characters"
        raise InputError(
            f"{what} '{shown(name)}' has {found}; use a name of at most 1000 visible ones"
        ) from None


@dataclass(frozen=True)
class Preprocessing:
    """`(x / divisor - mean) / std`; mean and std come from training inputs alone.

    One number each; or one a channel for images (..., channels, height, width), one a feature for rows
    (examples, features).
    """

    divisor: float
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    FIELDS: ClassVar[dict[str, Check]] = {
        "divisor": positive,
        "mean": either(items(number), number),
        "std": either(items(positive), positive),
    }

    @property
    def channels(self) -> int:
        return len(self.mean) if isinstance(self.mean, tuple) else 1

    def __call__(self, inputs: Tensor, example: int | None = None) -> Tensor:
        """`example`: the number of axes of one example; by default `inputs` has one axis more."""
        axes = inputs.dim() - 1 if example is None else example
        mean, std = (along(torch.tensor(values), axes) for values in (self.mean, self.std))
        return (inputs.float() / self.divisor - mean) / std

    def undone(self, prepared: Tensor) -> Tensor:
        """The raw inputs (examples, *shape) of prepared ones, in float64 between."""
        mean, std = (
            along(torch.tensor(values, dtype=torch.float64), prepared.dim() - 1)
            for values in (self.mean, self.std)
        )
        return ((prepared.double() * std + mean) * self.divisor).float()

    def to_dict(self) -> dict[str, Any]:
        return {"divisor": self.divisor, "mean": _listed(self.mean), "std": _listed(self.std)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Preprocessing:
        """From a file's JSON; raises `canon.validation.Invalid` if a statistic is not a number."""
        found = record(cls.FIELDS)({key: table[key] for key in cls.FIELDS if key in table})
        try:
            mean, std = (
                tuple(map(float, v)) if isinstance(v, list) else float(v)
                for v in (found["mean"], found["std"])
            )
            divisor = float(found["divisor"])
        except OverflowError:
            raise Invalid("a number of the preprocessing is beyond float64") from None
        if isinstance(mean, tuple) != isinstance(std, tuple) or (
            isinstance(mean, tuple) and isinstance(std, tuple) and len(mean) != len(std)
        ):
            raise Invalid("mean and std are for different numbers of channels")
        return cls(divisor, mean, std)


def _listed(values: float | tuple[float, ...]) -> float | list[float]:
    return list(values) if isinstance(values, tuple) else values


def along(values: Tensor, axes: int) -> Tensor:
    """One value, or one a channel of images or a feature of rows, shaped to meet examples of so many axes."""
    return values.view(-1, 1, 1) if values.dim() and axes > 1 else values


class StoredInputs:
    """Examples as stored (bytes in a memory-mapped file), preprocessed on access.

    Indexing with rows gives float tensors, as a preprocessed tensor would; the whole set is never copied.
    """

    def __init__(self, stored: Tensor, rows: Tensor, preprocessing: Preprocessing) -> None:
        self.stored, self.rows, self.preprocessing = stored, rows, preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.stored.shape[1:]))

    def __getitem__(self, index: Any) -> Tensor:
        return self.preprocessing(self.stored[self.rows[index]], self.stored.dim() - 1)

    def some(self, rows: Tensor) -> StoredInputs:
        """The same, of some rows alone."""
        return StoredInputs(self.stored, self.rows[rows], self.preprocessing)


@dataclass(frozen=True)
class Split:
    """Preprocessed inputs (examples, *shape) and labels (examples,) that index the class names.

    Whichever kind `inputs` is, `inputs[rows]` is a float tensor.
    """

    inputs: Tensor | StoredInputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class SealedSplit:
    """Test examples. Only `weightflow.evaluate` opens them, which a test verifies on the source code."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def open_for_evaluation(self) -> Split:
        return self._split

    def prepared(self, change: Callable[[Split], Split]) -> SealedSplit:
        """The same examples after a change of how they are prepared, sealed as before."""
        return SealedSplit(change(self._split))

    def __len__(self) -> int:
        return len(self._split)


@dataclass(frozen=True)
class ClassificationData:
    """Real examples of named classes. Validation is cut from training data, never from test data.

    `folder` holds the decoded arrays, where there is one. Where the examples are features, `features` makes
    them of raw images, `backbone_digest` is the SHA-256 of the backbone's file, and `excluded` classes were kept from it.
    `fingerprint` changes with the examples, `remarks` say what was left out or changed when they were read. `rows_as` is the shape of pictures
    whose pixels are stored as rows.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: SealedSplit
    preprocessing: Preprocessing
    licence: str
    folder: Path | None = None
    features: Callable[[Tensor], Tensor] | None = None
    backbone_digest: str = ""
    excluded: tuple[str, ...] = ()
    fingerprint: str = ""
    remarks: tuple[str, ...] = ()
    rows_as: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_name("the data set", self.name)
        for label, name in enumerate(self.class_names):
            if not name.strip():
                raise InputError(f"data set '{self.name}': class {label} has an empty name; give it one")
            check_name(f"data set '{self.name}': the class", name)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an example that can be looked at; nothing where it is not a picture."""
        shape = self.rows_as or self.input_shape
        return shape if len(shape) == 3 and shape[0] in (1, 3) else ()

    @property
    def examples(self) -> int:
        """Of all three splits together."""
        return len(self.train) + len(self.validation) + len(self.test)

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

    def class_labels(self, classes: Sequence[str]) -> list[list[int]]:
        """Labels of each class of a task, several where it is a union of classes (`data/class_groups.py`)."""
        return labels_of_classes(self.name, classes, self.class_names)


def prepared_as(data: ClassificationData, preprocessing: Preprocessing) -> ClassificationData:
    """The same examples, prepared in another way; `InputError` where it is for another number of channels."""
    shape = data.input_shape
    for values in (preprocessing.mean, preprocessing.std):
        if isinstance(values, tuple) and (len(shape) not in (1, 3) or len(values) != shape[0]):
            raise InputError(
                f"data set '{data.name}': {len(values)} means or deviations do not fit examples of shape {shape}; "
                "give one, or one a channel (images) or feature (rows)"
            )

    def other(split: Split) -> Split:
        own = split.inputs
        if isinstance(own, StoredInputs):
            return Split(StoredInputs(own.stored, own.rows, preprocessing), split.labels)
        return Split(preprocessing(data.preprocessing.undone(own)), split.labels)

    return replace(
        data,
        train=other(data.train),
        validation=other(data.validation),
        test=data.test.prepared(other),
        preprocessing=preprocessing,
    )


def with_fewer_examples(data: ClassificationData, count: int) -> ClassificationData:
    """The same data with at most `count` training examples of each class, drawn with a fixed seed."""
    labels = data.train.labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[labels[order].argsort(stable=True)]
    starts = torch.searchsorted(labels[order], labels[order])
    rows = order[torch.arange(len(order)) - starts < count].sort().values
    own = data.train.inputs
    inputs = own.some(rows) if isinstance(own, StoredInputs) else own[rows]
    return replace(data, train=Split(inputs, labels[rows]))


def check_labels(name: str, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """`InputError` where a label names no class, or two classes have one name."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"data set '{name}': labels are whole numbers, found {labels.dtype}")
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        raise InputError(
            f"data set '{name}': {len(outside)} labels are out of range, the first is {labels[outside[0]]} "
            f"at example {outside[0]}; {len(class_names)} classes have labels 0 to {len(class_names) - 1}"
        )
    twice = [n for n in dict.fromkeys(class_names) if list(class_names).count(n) > 1]
    if twice:
        raise InputError(f"data set '{name}': two classes are called '{twice[0]}'; rename one")


def check_parts(name: str, class_names: Sequence[str], parts: dict[str, np.ndarray]) -> None:
    """`InputError` where a class has no example in one of the splits; `parts` holds labels by split."""
    counts = {split: np.bincount(labels, minlength=len(class_names)) for split, labels in parts.items()}
    without = np.flatnonzero(np.any([count == 0 for count in counts.values()], axis=0))
    if not len(without):
        return
    label, *others = without.tolist()
    empty = " and ".join(split for split, count in counts.items() if count[label] == 0)
    total = sum(int(count[label]) for count in counts.values())
    more = f"; the same of {len(others)} more" if others else ""
    raise InputError(
        f"data set '{name}': class '{class_names[label]}' has {many(total, 'example')}, too few: none is left for {empty} "
        f"(where a split is not given, an example's content decides it); add some or leave the class out{more}"
    )


def from_arrays(
    name: str,
    class_names: Sequence[str],
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    divisor: float,
    licence: str,
    per_feature: bool = False,
    standardise: bool = True,
    test_fraction: float = 0.25,
    validation_fraction: float = 0.15,
    seed: int | None = 0,
) -> ClassificationData:
    """Split one table of examples and standardise it by its training part; words stay as they are.

    Without a seed an example's split depends on its content alone, so that splits survive growth.
    """
    fractions = [test_fraction, validation_fraction]
    keys = content_keys(inputs)
    if seed is None:
        test, validation, train = parts_by_content(labels, keys, fractions)
    else:
        test, validation, train = stratified_parts(labels, fractions, seed)
    parts = {"training": labels[train], "validation": labels[validation], "test": labels[test]}
    check_parts(name, class_names, parts)
    scaled = torch.from_numpy(inputs[train]).float() / divisor
    if not standardise:
        preprocessing = Preprocessing(1.0, 0.0, 1.0)
    elif per_feature:
        mean, std = scaled.double().mean(0), scaled.double().std(0, correction=0)
        std[std == 0] = 1.0  # a feature that never changes is left as it is
        preprocessing = Preprocessing(divisor, tuple(mean.tolist()), tuple(std.tolist()))
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
        fingerprint=fingerprint(class_names, {"train": (keys, labels)}),
    )
