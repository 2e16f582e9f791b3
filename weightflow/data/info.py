"""What must be known of a data set to use networks made for it, where the data is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from canon.validation import boolean, items, record, text
from weightflow.data.types import ClassificationData, Preprocessing

THROUGH = " through "
_NAME = text(r"(?s).*", 100_000)


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
        """As a file has it; `canon.validation.Invalid` where a name is no text or a statistic no number."""
        found = check_facts(table)
        return cls(
            dataset=found["dataset"],
            classes=tuple(found["classes"]),
            known=tuple(found["known"]),
            preprocessing=Preprocessing.from_dict(found),
            licence=found["licence"],
            groups=found.get("groups", False),
        )


_FACTS = record(
    {
        "dataset": _NAME,
        "classes": items(_NAME),
        "known": items(_NAME),
        "licence": _NAME,
        **Preprocessing.FIELDS,
    },
    {"groups": boolean},
)


def check_facts(table: Any) -> dict[str, Any]:
    """A table as `Facts.to_dict` gives it; `canon.validation.Invalid` where it is none."""
    found = _FACTS(table)
    Preprocessing.from_dict(found)
    return found
