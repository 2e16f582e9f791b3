r"""The prediction for a Gaussian population, so that the model learns only the residual.

If networks were N(0, p^2) in the flow's coordinates, x_t = alpha x_1 + sigma x_0 with x_0 ~ N(0, s^2) has
the spread gamma = sqrt(alpha^2 p^2 + sigma^2 s^2), and

    E[x_1 | x_t] = (alpha p^2 / gamma^2) x_t        velocity = (gamma' / gamma) x_t .

The exact flow multiplies noise by p / s. What the model says nothing about passes through with spread p
in every direction, also in those that the zoo does not span: a hundred networks hold less than one per
cent of what is particular to another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weightflow.flow.schedule import Schedule, expand_time
from weightflow.flow.velocity import Prediction


@dataclass(frozen=True)
class WithPrior:
    """`model` plus the prediction of the prior, of the clean end or of the velocity as the model's."""

    model: Prediction
    schedule: Schedule
    spread: float
    source: float
    clean: bool

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        s, p2, s2 = self.schedule, self.spread**2, self.source**2
        alpha, sigma = s.alpha(t), s.sigma(t)
        gamma2 = alpha**2 * p2 + sigma**2 * s2
        if self.clean:
            gain = alpha * p2 / gamma2
        else:
            gain = (alpha * s.d_alpha(t) * p2 + sigma * s.d_sigma(t) * s2) / gamma2
        return torch.addcmul(self.model(x_t, t), expand_time(gain, x_t), x_t)
