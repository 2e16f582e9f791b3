r"""The terms of the training loss.

    match         squared error of the predicted network (the objective of the flow)
    behaviour     cross-entropy of the decoded prediction on training images of its task, or of networks
                  generated from noise under its prompt, as they will be when the run is used
    beyond        the latter for tasks that no network of the zoo has
    energy, straight  of several networks generated for one prompt, see `sampled_loss.py`
    adversary     the discriminator's verdict on the prediction (Text2Weight, arXiv:2508.13633)
    equivariance  |model(P x_t) - P model(x_t)|^2 for relabellings P of hidden units

Held-out networks are scored by match, behaviour, energy and straight: the others have no fixed yardstick.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weightflow.datasets import Split
from weightflow.flow.draws import NoiseDraws
from weightflow.flow.objective import MatchLoss, match
from weightflow.flow.solver import solve
from weightflow.representation import Coordinates
from weightflow.text import PromptBatch
from weightflow.training.adversarial import Adversary
from weightflow.training.augmentation import UnitRelabelling
from weightflow.training.batch import Batch
from weightflow.training.config import TrainConfig
from weightflow.training.functional_loss import FunctionalLoss, Partners
from weightflow.training.sampled_loss import Model, SampledLoss
from weightflow.training.unseen_tasks import UnseenTasks


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
    behaviour: FunctionalLoss
    units: UnitRelabelling | None
    adversary: Adversary | None
    beyond: UnseenTasks | None

    @cached_property
    def _sampled(self) -> SampledLoss:
        return SampledLoss(self.config.behaviour, self.config.objective, self.coordinates, self.behaviour)

    def held_out(self, model: Model, batch: Batch, kept: Tensor, split: Split, draws: NoiseDraws) -> Terms:
        """`kept` (networks, 1) says which prompts the model is shown; behaviour counts only for those."""
        return self._terms(model, batch, kept, split, draws)[0]

    def training(self, model: Model, batch: Batch, kept: Tensor, split: Split, draws: NoiseDraws) -> Terms:
        """As `held_out`, with the terms that only training has."""
        config = self.config
        terms, matched = self._terms(model, batch, kept, split, draws)
        extra: dict[str, tuple[float, Tensor]] = {}
        if self.adversary is not None:
            extra["adversary"] = config.adversary.weight, self.adversary.loss(terms.x_1)
        if self.units is not None and config.augment.equivariance:
            error = self._equivariance(self.units, model, batch, kept, matched, draws)
            extra["equivariance"] = config.augment.equivariance, error
        if self.beyond is not None:
            count = max(1, round(config.behaviour.beyond * len(batch)))
            words, labels, partners = self.beyond.draw(count, draws)
            if config.behaviour.group > 1:
                errors = self._sampled.cross_entropy(model, words, labels, split, draws, partners)
            else:
                steps = config.behaviour.beyond_steps
                errors = self._from_noise(model, words, labels, steps, split, draws, partners)
            extra["beyond"] = config.behaviour.weight * count / len(batch), errors.mean()
        total = terms.total + sum(weight * error for weight, error in extra.values())
        return Terms(total, terms.parts | {n: error.detach() for n, (_, error) in extra.items()}, terms.x_1)

    def _terms(
        self, model: Model, batch: Batch, kept: Tensor, split: Split, draws: NoiseDraws
    ) -> tuple[Terms, MatchLoss]:
        config, words = self.config, batch.prompts.shown(kept)
        used = self._used(batch.prompts)
        if config.objective.weight or config.behaviour.sampled < 1:
            matched = match(
                config.objective,
                lambda x_t, t: model(x_t, t, words.vectors, words.present),
                batch.z,
                used,
                draws,
            )
        else:  # the matching loss is switched off
            none = batch.z.new_zeros(len(batch))
            matched = MatchLoss(none, torch.zeros_like(batch.z), torch.zeros_like(batch.z), none)
        error, x_1 = matched.error.mean(), matched.x_1
        found = {"match": error, "behaviour": error.new_zeros(())}
        if config.behaviour.weight:
            found |= self._behaviour(model, batch, matched, kept, split, draws)
        weights = {
            "match": config.objective.weight,
            "behaviour": config.behaviour.weight,
            "energy": config.behaviour.energy,
            "straight": config.behaviour.straight,
        }
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        return Terms(total, {name: value.detach() for name, value in found.items()}, x_1), matched

    def _behaviour(
        self,
        model: Model,
        batch: Batch,
        matched: MatchLoss,
        kept: Tensor,
        split: Split,
        draws: NoiseDraws,
    ) -> dict[str, Tensor]:
        """Of networks from noise for the first share of the batch, of the predictions for the others."""
        config, prompts = self.config.behaviour, batch.prompts
        sampled, losses, others = round(config.sampled * len(batch)), [], {}
        if sampled and config.group > 1:
            others = self._sampled(model, batch[:sampled], split, draws)
            losses.append(others.pop("behaviour"))
        elif sampled:
            some = batch[:sampled]
            losses.append(
                self._from_noise(model, some.prompts, some.labels, config.sampled_steps, split, draws)
            )
        if sampled < len(batch):
            rest = slice(sampled, None)
            x_1 = (matched.x_1 * self._used(prompts))[rest]
            loss = self.behaviour.loss(x_1, batch.labels[rest], prompts.present[rest], split, draws)
            losses.append(loss * matched.t[rest] ** config.power * kept[rest].squeeze(1))
        return {"behaviour": torch.cat(losses).mean(), **others}

    def _equivariance(
        self,
        units: UnitRelabelling,
        model: Model,
        batch: Batch,
        kept: Tensor,
        matched: MatchLoss,
        draws: NoiseDraws,
    ) -> Tensor:
        words, used = batch.prompts.shown(kept), self._used(batch.prompts)
        clean = self.config.objective.clean(lambda x_t, t: model(x_t, t, words.vectors, words.present))
        relabelling = units.draw(len(batch), draws)
        left, right = clean(units(matched.x_t, relabelling), matched.t), units(matched.x_1, relabelling)
        return (((left - right) ** 2 * used).sum((1, 2)) / used.sum((1, 2))).mean()

    def _from_noise(
        self,
        model: Model,
        words: PromptBatch,
        labels: Tensor,
        steps: int,
        split: Split,
        draws: NoiseDraws,
        partners: Partners | None = None,
    ) -> Tensor:
        """Cross-entropy (networks,). The last of a few steps has the gradient; how many come before is drawn."""
        objective, count = self.config.objective, len(words)
        used = self._used(words)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return model(x_t, t, words.vectors, words.present) * used

        layout = self.coordinates.layout
        x = objective.source * draws.normal(count, layout.tokens, layout.width) * used
        before = draws.integer(steps)
        if before:
            with torch.no_grad():
                x = solve(objective.velocity(predict), x, steps=before, end=before / steps)
        x_1 = objective.clean(predict)(x, x.new_full((count,), before / steps))
        return self.behaviour.loss(x_1, labels, words.present, split, draws, partners)

    def _used(self, prompts: PromptBatch) -> Tensor:
        return self.coordinates.used(prompts.present)
