"""Prompts: the classes of a network in logit order, in words or images."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from canon.errors import InputError
from canon.io.large_tensors import large_zeros
from weightflow.data.types import check_name
from weightflow.text.description import Description, encode_groups
from weightflow.text.encoder import TextEncoder

LONGEST = 100_000
"""Characters of a prompt: several thousand classes in words."""
MOST_PICTURES = 1000
"""Of a prompt: a class is known well by a few dozen, and each is read whole."""


@dataclass(frozen=True)
class Prompt:
    """Class names in logit order, no two alike, none empty; and how each is described, if not by its name.

    Args:
        classes: Class names in logit order.
        described: A description for each, where it is more than the name; `Prompt.parse` makes them.

    Raises:
        InputError: Fewer than two classes, an empty name, or one name twice.

    Example:
        >>> import weightflow
        >>> weightflow.Prompt.parse("three, seven").classes
        ('three', 'seven')
    """

    classes: tuple[str, ...]
    described: tuple[Description, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes or not all(name.strip() for name in self.classes):
            raise InputError(
                "the prompt names no class, or an empty one; write for instance: three, seven, nine"
            )
        if len(self.classes) < 2:
            raise InputError(
                f"the prompt names one class, '{self.classes[0]}'; a classifier needs two or more"
            )
        if len(set(self.classes)) < len(self.classes):
            twice = sorted(name for name, count in Counter(self.classes).items() if count > 1)
            raise InputError(f"the prompt names '{twice[0]}' twice; each class stands for one logit")

        for name in (*self.classes, *self.words):
            check_name("the class", name)
        pictures = sum(len(d.images) for d in self.described)
        if pictures > MOST_PICTURES:
            raise InputError(
                f"the prompt shows {pictures} pictures; at most {MOST_PICTURES} are read: a few dozen a class are enough"
            )
        if self.described and tuple(d.name for d in self.described) != self.classes:
            raise InputError(
                f"the descriptions are of {[d.name for d in self.described]}, not {self.classes}"
            )

    @property
    def descriptions(self) -> tuple[Description, ...]:
        return self.described or tuple(Description.of(name) for name in self.classes)

    @property
    def words(self) -> tuple[str, ...]:
        """What was said of each class; nothing where all are described by their names."""
        said = tuple(description.said for description in self.descriptions)
        return () if said == self.classes else said

    @classmethod
    def parse(cls, text: str, known: Collection[str] = ()) -> Prompt:
        """Comma-separated descriptions as people type them; one that has a comma stands in double quotes.

        A description that is the name of a `known` class stands for it, though it have `=` or `|` in it.
        """
        if len(text) > LONGEST:
            raise InputError(f"the prompt has more than {LONGEST} characters; at most {LONGEST} are read")
        if not text.isascii() and text.encode(errors="replace") != text.encode(errors="surrogatepass"):
            raise InputError(f"the prompt '{text}' is not text in UTF-8")
        try:
            parts = next(csv.reader([text.replace("\n", " ")], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise InputError(f"the prompt '{text}' cannot be read: {error}") from None
        described = tuple(Description.parse(part, known) for part in parts or [""])
        names = tuple(d.name for d in described)
        return cls(names, () if all(d.words == (d.name,) and not d.images for d in described) else described)


def as_prompts(
    classes: str | Sequence[str] | Prompt | Sequence[Prompt], known: Collection[str] = ()
) -> list[Prompt]:
    """Prompts from what a person passes: "three, seven", a sequence of class names, or prompts.

    `known` as for `Prompt.parse`.
    """
    if isinstance(classes, Prompt):
        return [classes]
    if isinstance(classes, str):
        return [Prompt.parse(classes, known)]
    names = [item for item in classes if isinstance(item, str)]
    if len(names) == len(classes):
        return [Prompt(tuple(names))]
    prompts = [item for item in classes if isinstance(item, Prompt)]
    if len(prompts) != len(classes):
        raise InputError("give class names, or prompts (weightflow.Prompt.parse), not both")
    return prompts


@dataclass(frozen=True)
class PromptBatch:
    """Class vectors padded to one length, and which of them are there."""

    vectors: Float[Tensor, "prompts classes text"]
    present: Bool[Tensor, "prompts classes"]

    def __getitem__(self, rows: Tensor | slice) -> PromptBatch:
        return PromptBatch(self.vectors[rows], self.present[rows])

    def __len__(self) -> int:
        return len(self.present)

    def to(self, device: torch.device) -> PromptBatch:
        return PromptBatch(self.vectors.to(device), self.present.to(device))

    def shown(self, kept: Bool[Tensor, "prompts one"]) -> PromptBatch:
        """The empty prompt in every row that is not kept."""
        return PromptBatch(self.vectors, self.present & kept)

    def nothing(self) -> PromptBatch:
        """The empty prompt in every row."""
        return PromptBatch(self.vectors, torch.zeros_like(self.present))


def encode_prompts(
    encoder: TextEncoder, prompts: Sequence[Prompt], classes: int, class_names: Sequence[str] = ()
) -> PromptBatch:
    """Encode prompts and pad them to `classes`; `InputError` where one names more.

    With `class_names`, classes may be unions of these, or `other`.
    """
    for prompt in prompts:
        if len(prompt.classes) > classes:
            raise InputError(
                f"the prompt names {len(prompt.classes)} classes; this run was built for {classes} at most"
            )
    distinct = list(dict.fromkeys(d for prompt in prompts for d in prompt.descriptions))
    found = dict(zip(distinct, encode_groups(encoder, distinct, class_names), strict=True))
    vectors = large_zeros(len(prompts), classes, encoder.width)
    present = torch.zeros(len(prompts), classes, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        vectors[row, : len(prompt.classes)] = torch.stack([found[d] for d in prompt.descriptions])
        present[row, : len(prompt.classes)] = True
    return PromptBatch(vectors, present)
