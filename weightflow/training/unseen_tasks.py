"""Unseen tasks: combinations of the zoo's classes that no network was trained on.

They have no weights to learn from, but behaviour asks for none. The classes are those of the training
networks; combinations that the zoo holds out, for choosing checkpoints or for the report, never come up,
and neither does a held-out class.

Classes of these tasks can be invented: weighted means of two known classes, of their words and, in the functional loss, of their
examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.data.class_groups import members
from weightflow.datasets import ClassificationData
from weightflow.flow.draws import NoiseDraws
from weightflow.text import PromptBatch, TextEncoder
from weightflow.training.functional_loss import Partners
from weightflow.zoo.store import Zoo

ATTEMPTS = 1000
LEAST_SHARE = 0.3
"""Of the partner in an invented class; at most as much less than 1."""


class UnseenTasks:
    """Draws prompts, and the data set's label of each logit, for tasks as large as the zoo's; `invented` is the share of
    their classes that are mixed with a partner, a known class of no place in the task."""

    def __init__(
        self, zoo: Zoo, data: ClassificationData, encoder: TextEncoder, invented: float = 0.0
    ) -> None:
        self._invented = invented
        seen = [zoo.records[i].classes for i in zoo.rows("seen")]
        held_out = {record.classes for record in zoo.records if record.split != "seen"}
        known = {label for classes in seen for own in data.class_labels(classes) for label in own}
        names = [name for label, name in enumerate(data.class_names) if label in known]
        self._shapes = [_shape(data, classes) for classes in seen]
        self._labels = torch.tensor(data.class_index(names))
        self._vectors = encoder.encode(names)
        self._all = len(data.class_names)
        self._held_out = {_key(data.class_labels(classes)) for classes in held_out}
        self._classes = zoo.architecture.classes

    def draw(self, count: int, draws: NoiseDraws) -> tuple[PromptBatch, Tensor, Partners | None]:
        """Prompts for `count` tasks, the logit of each label (count, labels of the data), -1 for none, and the partners
        of the labels where classes are invented.

        Labels and partners stay on the processor.
        """
        words, labels, partners = self._draw(count * draws.processes, draws.generator)
        words, labels = PromptBatch(draws.own(words.vectors), draws.own(words.present)), draws.own(labels)
        own = Partners(draws.own(partners.label), draws.own(partners.share)) if self._invented else None
        return words.to(draws.device), labels, own

    def _draw(self, count: int, generator: torch.Generator) -> tuple[PromptBatch, Tensor, Partners]:
        vectors = torch.zeros(count, self._classes, self._vectors.shape[1])
        present = torch.zeros(count, self._classes, dtype=torch.bool)
        labels = torch.full((count, self._all), -1)
        partners = Partners(torch.full((count, self._all), -1), torch.zeros(count, self._all))
        for row in range(count):
            groups = self._combination(generator)
            free = self._free(groups, generator) if self._invented else []
            for logit, chosen in enumerate(groups):
                present[row, logit] = True
                if len(chosen) == 1 and free and torch.rand((), generator=generator) < self._invented:
                    share = LEAST_SHARE + (1 - 2 * LEAST_SHARE) * float(torch.rand((), generator=generator))
                    label, partner = int(chosen), free.pop()
                    vectors[row, logit] = self._normalized(
                        self._vectors[label].lerp(self._vectors[partner], share)
                    )
                    labels[row, self._labels[label]] = logit
                    partners.label[row, self._labels[label]] = self._labels[partner]
                    partners.share[row, self._labels[label]] = share
                elif len(chosen):
                    vectors[row, logit] = self._vector(chosen)
                    labels[row, self._labels[chosen]] = logit
                else:  # other: examples of no class; no later class may be outscored by it
                    labels[row, labels[row] < 0] = self._classes + logit
            labels[row] = torch.where(labels[row] >= self._classes, labels[row] - self._classes, labels[row])
        return PromptBatch(vectors, present), labels, partners

    def _free(self, groups: Sequence[Tensor], generator: torch.Generator) -> list[int]:
        """Places of the known classes that a task does not have, in random order."""
        used = {place for own in groups for place in own.tolist()}
        return [p for p in torch.randperm(len(self._labels), generator=generator).tolist() if p not in used]

    def _full_key(self, groups: Sequence[Tensor]) -> frozenset[frozenset[int]]:
        """With the labels that `other` stands for."""
        named = [self._labels[own].tolist() for own in groups]
        left = sorted(set(range(self._all)) - {label for own in named for label in own})
        return _key([own or left for own in named])

    def _vector(self, chosen: Tensor) -> Tensor:
        """As `encode_groups` makes them of a class or a union."""
        if len(chosen) == 1:
            return self._vectors[chosen[0]]
        return self._normalized(self._vectors[chosen].mean(0))

    def _normalized(self, vector: Tensor) -> Tensor:
        return F.normalize(vector, dim=-1) * self._vectors.shape[1] ** 0.5

    def _combination(self, generator: torch.Generator) -> list[Tensor]:
        """Classes of the shape of a training task: as many of as many members, places of known classes."""
        for _ in range(ATTEMPTS):
            shape = self._shapes[int(torch.randint(len(self._shapes), (1,), generator=generator))]
            chosen = torch.randperm(len(self._labels), generator=generator)[: sum(shape)]
            groups = list(chosen.split(shape))
            if self._full_key(groups) not in self._held_out:
                return groups
        raise InputError(
            f"behaviour.beyond: {ATTEMPTS} draws found no combination of classes that the zoo does not hold "
            "out; set it to 0, or use a zoo with more classes"
        )


def _shape(data: ClassificationData, classes: Sequence[str]) -> list[int]:
    """How many classes of the data set each class is made of, 0 for `other`."""
    groups = [members(text, data.class_names) for text in classes]
    return [1 if group is None else len(group) for group in groups]


def _key(labels: Sequence[Sequence[int]]) -> frozenset[frozenset[int]]:
    """A combination whatever its order."""
    return frozenset(frozenset(own) for own in labels)
