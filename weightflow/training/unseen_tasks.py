"""Tasks beyond the zoo: combinations of its classes that no network was trained on.

They have no weights to learn from, but behaviour asks for none. The classes are those of the training
networks; combinations that the zoo holds out, for choosing checkpoints or for the report, never come up,
and neither does a held-out class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from canon.errors import InputError
from weightflow.datasets import ClassificationData
from weightflow.text import PromptBatch, TextEncoder
from weightflow.zoo.store import Zoo

ATTEMPTS = 1000


class TasksBeyond:
    """Draws prompts, and the data set's label of each logit, for tasks as large as the zoo's."""

    def __init__(self, zoo: Zoo, data: ClassificationData, encoder: TextEncoder) -> None:
        seen = [zoo.records[i].classes for i in zoo.rows("seen")]
        held_out = {record.classes for record in zoo.records if record.split != "seen"}
        names = [name for name in data.class_names if any(name in classes for classes in seen)]
        self._sizes = torch.tensor([len(classes) for classes in seen])
        self._labels = torch.tensor(data.class_index(names))
        self._vectors = encoder.encode(names)
        self._held_out = {frozenset(data.class_index(classes)) for classes in held_out}
        self._classes = zoo.architecture.classes

    def draw(self, count: int, generator: torch.Generator) -> tuple[PromptBatch, Tensor]:
        """Prompts for `count` tasks and their labels (count, classes), 0 where a task has fewer."""
        vectors = torch.zeros(count, self._classes, self._vectors.shape[1])
        present = torch.zeros(count, self._classes, dtype=torch.bool)
        labels = torch.zeros(count, self._classes, dtype=torch.long)
        for row in range(count):
            chosen = self._combination(generator)
            vectors[row, : len(chosen)] = self._vectors[chosen]
            present[row, : len(chosen)] = True
            labels[row, : len(chosen)] = self._labels[chosen]
        return PromptBatch(vectors, present), labels

    def _combination(self, generator: torch.Generator) -> Tensor:
        for _ in range(ATTEMPTS):
            size = int(self._sizes[torch.randint(len(self._sizes), (1,), generator=generator)])
            chosen = torch.randperm(len(self._labels), generator=generator)[:size]
            if frozenset(self._labels[chosen].tolist()) not in self._held_out:
                return chosen
        raise InputError(
            f"behaviour.beyond: {ATTEMPTS} draws found no combination of classes that the zoo does not hold "
            "out; set it to 0, or use a zoo with more classes"
        )
