"""Facts about a data set that suffice to use its networks without the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from canon.validation import boolean, integer, items, record, table, text
from weightflow.data.types import ClassificationData, Preprocessing

THROUGH = " through "
_NAME = text(r"(?s).*", 100_000)


@dataclass(frozen=True)
class DataInfo:
    """`classes` are all of the data set's, in label order; `known` those that the networks were trained on.

    `groups`: the networks had tasks with classes made of classes. `fingerprint` and the number of `examples` are the
    data's when the networks were trained, where that is known, and `backbone_digest` the SHA-256 of the file of the
    backbone that they were seen through; `words` say what names of classes mean.
    """

    dataset: str
    classes: tuple[str, ...]
    known: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str
    groups: bool = False
    fingerprint: str = ""
    examples: int = 0
    backbone_digest: str = ""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def backbone(self) -> str | None:
        """The file of the backbone whose features the examples are, where they are features."""
        _, through, file = self.dataset.rpartition(THROUGH)
        return file.partition("?")[0] if through else None

    @property
    def images(self) -> str:
        """The data set whose images the backbone saw; the data set itself where there is no backbone."""
        return self.dataset.rpartition(THROUGH)[0] or self.dataset

    @classmethod
    def of(cls, data: ClassificationData, known: Iterable[str] | None = None) -> DataInfo:
        """Of a data set; `known` are classes by name, all by default."""
        chosen = set(data.class_names if known is None else known)
        own = tuple(name for name in data.class_names if name in chosen)
        return cls(
            data.name,
            data.class_names,
            own,
            data.preprocessing,
            data.licence,
            fingerprint=data.fingerprint,
            examples=data.examples,
            backbone_digest=data.backbone_digest,
        )

    @classmethod
    def of_tasks(cls, data: ClassificationData, tasks: Iterable[Sequence[str]]) -> DataInfo:
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
            **({"fingerprint": self.fingerprint, "examples": self.examples} if self.fingerprint else {}),
            **({"backbone_digest": self.backbone_digest} if self.backbone_digest else {}),
            **({"words": {name: list(own) for name, own in self.words.items()}} if self.words else {}),
            **self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DataInfo:
        """From a file's JSON; raises `canon.validation.Invalid` if a name is not text or a statistic is
        not a number.
        """
        found = check_facts(data)
        return cls(
            dataset=found["dataset"],
            classes=tuple(found["classes"]),
            known=tuple(found["known"]),
            preprocessing=Preprocessing.from_dict(found),
            licence=found["licence"],
            groups=found.get("groups", False),
            fingerprint=found.get("fingerprint", ""),
            examples=found.get("examples", 0),
            backbone_digest=found.get("backbone_digest", ""),
            words={name: tuple(own) for name, own in found.get("words", {}).items()},
        )


def without_folders(dataset: str) -> str:
    """A data set's name for others: of the paths in it, the last parts alone."""
    parts = []
    for part in dataset.split(THROUGH):
        before, mark, query = part.partition("?")
        start = min((place for sign in "/\\" if (place := before.find(sign)) >= 0), default=0)
        source = re.sub(r":[A-Za-z]:$", ":", before[: before.rfind(":", 0, start) + 1])
        parts.append(source + re.split(r"[/\\]", before[len(source) :])[-1] + mark + query)
    return THROUGH.join(parts)


_FACTS = record(
    {
        "dataset": _NAME,
        "classes": items(_NAME),
        "known": items(_NAME),
        "licence": _NAME,
        **Preprocessing.FIELDS,
    },
    {
        "groups": boolean,
        "fingerprint": text(r"[0-9a-f]*", 64),
        "examples": integer(0),
        "backbone_digest": text(r"[0-9a-f]{64}"),
        "words": table(_NAME, items(_NAME)),
    },
)


def check_facts(data: Any) -> dict[str, Any]:
    """A table as `DataInfo.to_dict` gives it; `canon.validation.Invalid` where it is none."""
    found = _FACTS(data)
    Preprocessing.from_dict(found)
    return found
