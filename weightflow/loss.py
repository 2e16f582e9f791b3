r"""What a step of training minimises, term by term.

    match         squared error of the predicted network (the objective of the flow)
    behaviour     cross-entropy of the decoded prediction on training images of its task
    beyond        the same for tasks that no network of the zoo has, generated from noise
    adversary     the discriminator's verdict on the prediction (Text2Weight, arXiv:2508.13633)
    equivariance  |model(P x_t) - P model(x_t)|^2 for relabellings P of hidden units

Held-out networks are scored by the first two alone: the others have no fixed yardstick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightflow.adversary import Adversary
from weightflow.augment import UnitRelabelling
from weightflow.batch import Batch
from weightflow.behaviour import Behaviour
from weightflow.beyond import TasksBeyond
from weightflow.coordinates import Coordinates
from weightflow.datasets import Split
from weightflow.flow.objective import Matched, match
from weightflow.flow.solver import solve
from weightflow.text import PromptBatch
from weightflow.trainconfig import TrainConfig

# x_t, t, class vectors and which of them are there: to tokens
Model = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """The weighted sum of the terms, each term's own mean over the batch, and the predicted networks."""

    total: Tensor
    parts: dict[str, Tensor]
    x_1: Tensor


@dataclass(frozen=True)
class Loss:
    """The terms of one run. Those that are switched off are None or weigh nothing."""

    config: TrainConfig
    coordinates: Coordinates
    behaviour: Behaviour
    units: UnitRelabelling | None
    adversary: Adversary | None
    beyond: TasksBeyond | None

    def held_out(
        self, model: Model, batch: Batch, kept: Tensor, split: Split, generator: torch.Generator
    ) -> Terms:
        """`kept` (networks, 1) says which prompts the model is shown; behaviour counts only for those."""
        return self._terms(model, batch, kept, split, generator)[0]

    def training(
        self, model: Model, batch: Batch, kept: Tensor, split: Split, generator: torch.Generator
    ) -> Terms:
        """As `held_out`, with the terms that only training has."""
        config = self.config
        terms, matched = self._terms(model, batch, kept, split, generator)
        extra: dict[str, tuple[float, Tensor]] = {}
        if self.adversary is not None:
            extra["adversary"] = config.adversary.weight, self.adversary.loss(terms.x_1)
        if self.units is not None and config.augment.equivariance:
            error = self._equivariance(self.units, model, batch.prompts.shown(kept), matched, generator)
            extra["equivariance"] = config.augment.equivariance, error
        if self.beyond is not None:
            count = max(1, round(config.behaviour.beyond * len(batch)))
            error = self._beyond(self.beyond, model, count, split, generator)
            extra["beyond"] = config.behaviour.weight * count / len(batch), error
        total = terms.total + sum(weight * error for weight, error in extra.values())
        return Terms(total, terms.parts | {n: error.detach() for n, (_, error) in extra.items()}, terms.x_1)

    def _terms(
        self, model: Model, batch: Batch, kept: Tensor, split: Split, generator: torch.Generator
    ) -> tuple[Terms, Matched]:
        config, words = self.config, batch.prompts.shown(kept)
        used = self._used(batch.prompts)
        matched = match(
            config.objective,
            lambda x_t, t: model(x_t, t, words.vectors, words.present),
            batch.z,
            used,
            generator,
        )
        error, x_1 = matched.error.mean(), matched.x_1 * used
        behaviour = error.new_zeros(())
        if config.behaviour.weight:
            loss = self.behaviour.loss(x_1, batch.labels, batch.prompts.present, split, generator)
            behaviour = (loss * matched.t**config.behaviour.power * kept.squeeze(1)).mean()
        total = error + config.behaviour.weight * behaviour
        parts = {"match": error.detach(), "behaviour": behaviour.detach()}
        return Terms(total, parts, x_1), matched

    def _equivariance(
        self,
        units: UnitRelabelling,
        model: Model,
        words: PromptBatch,
        matched: Matched,
        generator: torch.Generator,
    ) -> Tensor:
        clean = self.config.objective.clean(lambda x_t, t: model(x_t, t, words.vectors, words.present))
        relabelling = units.draw(len(matched.t), generator)
        left = clean(units(matched.x_t, relabelling), matched.t)
        return ((left - units(matched.x_1, relabelling)) ** 2).mean()

    def _beyond(
        self,
        beyond: TasksBeyond,
        model: Model,
        count: int,
        split: Split,
        generator: torch.Generator,
    ) -> Tensor:
        """The last of a few steps from noise has the gradient; how many come before it is drawn."""
        objective, steps = self.config.objective, self.config.behaviour.beyond_steps
        words, labels = beyond.draw(count, generator)
        used = self._used(words)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return model(x_t, t, words.vectors, words.present) * used

        layout = self.coordinates.layout
        x = objective.source * torch.randn(count, layout.tokens, layout.width, generator=generator) * used
        before = int(torch.randint(steps, (1,), generator=generator))
        if before:
            with torch.no_grad():
                x = solve(objective.velocity(predict), x, steps=before, end=before / steps)
        x_1 = objective.clean(predict)(x, x.new_full((count,), before / steps))
        return self.behaviour.loss(x_1, labels, words.present, split, generator).mean()

    def _used(self, prompts: PromptBatch) -> Tensor:
        return self.coordinates.used(prompts.present)
