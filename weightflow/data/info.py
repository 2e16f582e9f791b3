"""What must be known of a data set to use networks made for it, where the data is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weightflow.data.types import ClassificationData, Preprocessing

THROUGH = " through "


@dataclass(frozen=True)
class Facts:
    """`classes` are all of the data set's, in label order; `known` those that the networks were trained on.

    `groups`: the networks had tasks with classes made of classes.
    """

    dataset: str
    classes: tuple[str, ...]
    known: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str
    groups: bool = False

    @property
    def backbone(self) -> str | None:
        """The file of the backbone whose features the examples are, where they are features."""
        _, through, file = self.dataset.rpartition(THROUGH)
        return file if through else None

    @property
    def images(self) -> str:
        """The data set whose images the backbone saw; the data set itself where there is no backbone."""
        return self.dataset.rpartition(THROUGH)[0] or self.dataset

    @classmethod
    def of(cls, data: ClassificationData, known: Iterable[str] | None = None) -> Facts:
        """Of a data set; `known` are classes by name, all by default."""
        chosen = set(data.class_names if known is None else known)
        own = tuple(name for name in data.class_names if name in chosen)
        return cls(data.name, data.class_names, own, data.preprocessing, data.licence)

    @classmethod
    def of_tasks(cls, data: ClassificationData, tasks: Iterable[Sequence[str]]) -> Facts:
        """Of a data set and the tasks of the networks that were trained on it."""
        labels = [data.class_labels(classes) for classes in tasks]
        known = {data.class_names[label] for task in labels for own in task for label in own}
        return replace(cls.of(data, known), groups=any(len(own) > 1 for task in labels for own in task))

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "classes": list(self.classes),
            "known": list(self.known),
            "licence": self.licence,
            **({"groups": True} if self.groups else {}),
            **self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Facts:
        """As a file has it; `TypeError` where a name is no text or a statistic no number."""
        return cls(
            dataset=_text("dataset", table["dataset"]),
            classes=tuple(_text("classes", name) for name in table["classes"]),
            known=tuple(_text("known", name) for name in table["known"]),
            preprocessing=Preprocessing.from_dict(table),
            licence=_text("licence", table["licence"]),
            groups=bool(table.get("groups", False)),
        )


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} has {value!r} where a name was expected")
    return value
