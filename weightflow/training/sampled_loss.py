r"""Losses of sampled networks: several per prompt, each generated in one evaluation.

Cross-entropy alone is least where every seed gives one network. Three terms keep seeds apart and paths straight.

    ensemble  a share of the cross-entropy is that of the mean probability of a prompt's networks: what they get
              right together counts (Webb et al. 2020, arXiv:1902.04422)
    energy    the energy score of the probabilities p on a batch of examples against those of the zoo's network q
              of the same task, with n examples,
                  mean_i |p_i - q| / sqrt(n) - 1/2 mean_{i != j} |p_i - p_j| / sqrt(n) ,
              a strictly proper score: least where networks of a prompt differ in what they do as much as trained
              ones (Gneiting and Raftery 2007)
    straight  with x_1 the network made of the noise x_0, held fixed, the squared error of the prediction at
              x_t = alpha(t) x_1 + sigma(t) x_0: a generator that answers itself makes the same network by any
              number of steps of any solver (rectified flow, Liu et al. 2023, arXiv:2209.03003)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightflow.datasets import Split
from weightflow.flow.draws import NoiseDraws
from weightflow.flow.objective import ObjectiveConfig
from weightflow.flow.schedule import expand_time
from weightflow.representation import Coordinates
from weightflow.text import PromptBatch
from weightflow.training.batch import Batch
from weightflow.training.functional_loss import BehaviourConfig, FunctionalLoss, Partners

# x_t, t, class vectors and which of them are there: to tokens
Model = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TINY = 1e-8


@dataclass(frozen=True)
class SampledBatch:
    """Networks `x_1` made of the noise `x_0` under `words`, one each."""

    words: PromptBatch
    x_0: Tensor
    x_1: Tensor

    def __getitem__(self, rows: slice) -> SampledBatch:
        return SampledBatch(self.words[rows], self.x_0[rows], self.x_1[rows])


@dataclass(frozen=True)
class SampledLoss:
    """`group` networks are made for each prompt of a batch, whose zoo networks the energy score looks at."""

    config: BehaviourConfig
    objective: ObjectiveConfig
    coordinates: Coordinates
    behaviour: FunctionalLoss

    def __call__(self, model: Model, batch: Batch, split: Split, draws: NoiseDraws) -> dict[str, Tensor]:
        """Cross-entropy (prompts,) of the networks, and the other terms that weigh anything, each a mean."""
        config = self.config
        made = self._made(model, batch.prompts, draws)
        log_p, targets, inputs = self._answers(made, batch.labels, split, draws)
        found = {"behaviour": cross_entropy(log_p, targets, config.ensemble)}
        if config.energy:
            with torch.no_grad():
                zoo = self.behaviour.log_probabilities(batch.z, batch.prompts.present, batch.labels, inputs)
            found["energy"] = energy_score(log_p.exp(), zoo.exp()).mean()
        if config.straight:
            one_each = made[:: config.group]
            found["straight"] = self._straight(model, one_each, draws)
        return found

    def cross_entropy(
        self,
        model: Model,
        words: PromptBatch,
        labels: Tensor,
        split: Split,
        draws: NoiseDraws,
        partners: Partners | None = None,
    ) -> Tensor:
        """Of the networks of each prompt (prompts,), for tasks that the zoo has no network of."""
        log_p, targets, _ = self._answers(self._made(model, words, draws), labels, split, draws, partners)
        return cross_entropy(log_p, targets, self.config.ensemble)

    def _answers(
        self,
        made: SampledBatch,
        labels: Tensor,
        split: Split,
        draws: NoiseDraws,
        partners: Partners | None = None,
    ) -> tuple[Float[Tensor, "prompts group examples classes"], Tensor, Tensor]:
        """Log probabilities, and the targets and inputs that all networks of a prompt share."""
        group = self.config.group
        targets, inputs = self.behaviour.examples(labels, split, draws, partners)
        log_p = self.behaviour.log_probabilities(
            made.x_1,
            made.words.present,
            labels.repeat_interleave(group, 0),
            inputs.repeat_interleave(group, 0),
        )
        return log_p.unflatten(0, (len(labels), group)), targets, inputs

    def _made(self, model: Model, words: PromptBatch, draws: NoiseDraws) -> SampledBatch:
        """Noise, and the networks that one evaluation makes of it, `group` in a row for each prompt."""
        layout, prompts, group = self.coordinates.layout, len(words), self.config.group
        words = _repeat(words, group)
        used = self.coordinates.used(words.present)
        noise = draws.normal(prompts, group, layout.tokens, layout.width).flatten(0, 1)
        x_0 = self.objective.source * noise * used
        clean = self.objective.clean(lambda x, t: model(x, t, words.vectors, words.present))
        return SampledBatch(words, x_0, clean(x_0, x_0.new_zeros(len(words))) * used)

    def _straight(self, model: Model, made: SampledBatch, draws: NoiseDraws) -> Tensor:
        schedule, words, x_1 = self.objective.schedule, made.words, made.x_1.detach()
        used = self.coordinates.used(words.present)
        t = draws.uniform(len(words))
        x_t = expand_time(schedule.alpha(t), x_1) * x_1 + expand_time(schedule.sigma(t), x_1) * made.x_0
        clean = self.objective.clean(lambda x, time: model(x, time, words.vectors, words.present))
        error = (clean(x_t, t) - x_1).square() * used
        return (error.sum((1, 2)) / used.sum((1, 2))).mean()


def cross_entropy(
    log_p: Float[Tensor, "prompts group examples classes"], targets: Tensor, ensemble: float
) -> Float[Tensor, " prompts"]:
    """Of single networks, and for the share `ensemble` of their mean probabilities; `targets` (prompts, examples)."""
    group = log_p.shape[1]
    right = log_p.gather(-1, targets[:, None, :, None].expand(-1, group, -1, 1)).squeeze(-1)
    alone, together = -right.mean((1, 2)), (math.log(group) - right.logsumexp(1)).mean(1)
    return torch.lerp(alone, together, ensemble)


def energy_score(
    p: Float[Tensor, "prompts group examples classes"], q: Float[Tensor, "prompts examples classes"]
) -> Float[Tensor, " prompts"]:
    """The energy score of each prompt's sampled functions `p` for the function `q`; the lower the better."""
    scale, group = p.shape[2] ** 0.5, p.shape[1]
    p, q = p.flatten(2) / scale, q.flatten(1) / scale
    to_zoo = ((p - q.unsqueeze(1)).square().sum(-1) + TINY).sqrt().mean(1)
    apart = ((p.unsqueeze(1) - p.unsqueeze(2)).square().sum(-1) + TINY).sqrt()
    others = ~torch.eye(group, dtype=torch.bool, device=apart.device)
    return to_zoo - 0.5 * apart[:, others].mean(1)


def _repeat(words: PromptBatch, times: int) -> PromptBatch:
    return PromptBatch(words.vectors.repeat_interleave(times, 0), words.present.repeat_interleave(times, 0))
