"""Fit the evidence model to training features; its settings are chosen by hiding known classes.

Each partition hides every known class once. Its mean is then predicted from words and the classes left, with a few of
its training pictures or none, and validation images of the hidden classes are told apart by the rows that follow. No
class outside the training networks is looked at, and no test image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.datasets import ClassificationData
from weightflow.zero_shot.evidence import Evidence, Spread, word_map
from weightflow.zero_shot.features import examples_of
from weightflow.zero_shot.fit import PARTITIONS, HeldOutFeatures, choose, partition
from weightflow.zero_shot.regression import Regression, Settings, Statistics

SCALES, MIXES = (0.25, 0.5, 1.0, 2.0), (0.3, 0.6, 0.9, 1.0)
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
SHOTS = (1, 5)
LEAST_CLASSES = 6
WAYS = ("words", "pictures", "both")


def fit_evidence(
    data: ClassificationData, known: Sequence[str], vectors: Float[Tensor, "known text"]
) -> Evidence:
    """From the training features of the `known` classes; `InputError` where too few are known to hide any."""
    if len(known) < LEAST_CLASSES:
        raise InputError(
            f"pictures are weighed by hiding known classes, and this run knows {len(known)}; {LEAST_CLASSES} are "
            "needed: describe the class in words"
        )
    return HiddenClasses(data, known, vectors).fit()


class HiddenClasses:
    """Known classes, each hidden in turn."""

    def __init__(
        self, data: ClassificationData, known: Sequence[str], vectors: Float[Tensor, "known text"]
    ) -> None:
        labels = torch.tensor(data.class_index(known))
        rows = examples_of(data.train, labels)
        inputs, own = data.train.inputs[rows], data.train.labels[rows]
        self.found = Statistics.of_examples(vectors, inputs, own, labels)
        self.pictures = [inputs[own == label] for label in labels.tolist()]
        place = torch.full((len(data.class_names),), -1)
        place[labels] = torch.arange(len(labels))
        rows = examples_of(data.validation, labels)
        self.held = HeldOutFeatures(data.validation.inputs[rows], place[data.validation.labels[rows]])
        self.parts = [hidden for seed in range(PARTITIONS) for hidden in partition(len(labels), seed)]
        self.parts = [hidden for hidden in self.parts if int(hidden.sum()) > 1]

    def fit(self) -> Evidence:
        settings = choose(self.found, self.held, self.parts)
        residuals = self.residuals(settings)
        ridge = min(RIDGES, key=self._word_error)

        def score(spread: Spread) -> float:
            return sum(self.accuracies(settings, spread, residuals, "both").values())

        spread = max((Spread(*values) for values in product(SCALES, MIXES)), key=score)
        return Evidence.fit(self.found, settings, spread, residuals, ridge)

    def residuals(self, settings: Settings) -> Float[Tensor, "known features"]:
        """How far each class is from where words put it when it is hidden, the mean over partitions."""
        total, count = torch.zeros_like(self.found.means), torch.zeros(len(self.found.means), 1)
        for hidden in self.parts:
            fitted = Regression.fit(self.found.without(hidden), settings)
            similar = fitted.similarity(self.found.vectors[hidden], fitted.sharpness)
            total[hidden] += self.found.means[hidden] - fitted.origin - similar @ fitted.to_mean
            count[hidden] += 1
        return total / count.clamp(min=1)

    def accuracies(
        self,
        settings: Settings,
        spread: Spread,
        residuals: Float[Tensor, "known features"],
        way: str,
        shots: Sequence[int] = SHOTS,
    ) -> dict[int, float]:
        """By the number of pictures: the mean accuracy on hidden classes, told by `way`, one of `WAYS`."""
        total = dict.fromkeys(shots, 0.0)
        for number, hidden in enumerate(self.parts):
            # what was left out is in no residual either: the spread is of classes that are not judged
            own = Evidence.fit(self.found.without(hidden), settings, spread, residuals[~hidden], 1.0)
            for count in shots:
                rows = own.row(self._means(own, hidden, way, count, number))
                total[count] += self._accuracy(rows, hidden) / len(self.parts)
        return total

    def _means(
        self, own: Evidence, hidden: Bool[Tensor, " known"], way: str, count: int, seed: int
    ) -> Tensor:
        generator, means = torch.Generator().manual_seed(seed), []
        for i in torch.nonzero(hidden).squeeze(1).tolist():
            order = torch.randperm(len(self.pictures[i]), generator=generator)
            shown = self.pictures[i][order[: 0 if way == "words" else count]]
            means.append(own.mean(None if way == "pictures" else self.found.vectors[i], shown))
        return torch.stack(means)

    def _accuracy(self, rows: Tensor, hidden: Bool[Tensor, " known"]) -> float:
        mine = hidden[self.held.classes]
        guessed = (self.held.inputs[mine] @ rows[:, :-1].T + rows[:, -1]).argmax(1)
        return float((torch.nonzero(hidden).squeeze(1)[guessed] == self.held.classes[mine]).float().mean())

    def _word_error(self, ridge: float) -> float:
        """Of the class vectors that mean features predict, hidden classes alone; settings decide little here."""
        total = 0.0
        for hidden in self.parts:
            left = self.found.without(hidden)
            vectors = F.normalize(self.found.vectors, dim=-1)
            centre, origin = vectors[~hidden].mean(0), left.means.mean(0)
            spread = left.variances + Settings.floor * left.variances.mean()
            said = word_map(left.means - origin, vectors[~hidden] - centre, left.basis, spread, ridge)
            total += float(
                ((self.found.means[hidden] - origin) @ said + centre - vectors[hidden]).square().sum()
            )
        return total
