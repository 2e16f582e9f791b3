r"""Conversions between predictions and velocities, and classifier-free guidance.

With x_t = alpha x_1 + sigma x_0 and a prediction of x_1,

    x_0 = (x_t - alpha x_1) / sigma        v = alpha' x_1 + sigma' x_0

so one conversion serves flow and diffusion alike. Classifier-free guidance (Ho & Salimans 2022,
arXiv:2207.12598) extrapolates between two predictions; limiting it to an interval of times follows
Kynkäänniemi et al. 2024, arXiv:2404.07724.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightflow.flow.schedule import Schedule, expand_time

Prediction = Callable[[Tensor, Tensor], Tensor]

# At t = 1 noise is not defined by x_t and x_1: sigma is bounded from below there.
SMALLEST_SIGMA = 1e-3


@dataclass(frozen=True)
class CleanToVelocity:
    """The velocity of a path whose clean end `clean(x_t, t)` predicts."""

    clean: Prediction
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        s, d_sigma = self.schedule, self.schedule.d_sigma(t.clamp(max=1 - SMALLEST_SIGMA))
        by_x_t = d_sigma / s.sigma(t).clamp(min=SMALLEST_SIGMA)
        return _combined(s.d_alpha(t) - s.alpha(t) * by_x_t, self.clean(x_t, t), by_x_t, x_t)


@dataclass(frozen=True)
class VelocityToClean:
    """The clean end implied by a predicted velocity; the inverse of `CleanToVelocity`."""

    velocity: Prediction
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        s, d_sigma = self.schedule, self.schedule.d_sigma(t.clamp(max=1 - SMALLEST_SIGMA))
        whole = s.sigma(t) * s.d_alpha(t) - d_sigma * s.alpha(t)
        return _combined(s.sigma(t) / whole, self.velocity(x_t, t), -d_sigma / whole, x_t)


def _combined(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y, a and b one number for each network: whole networks are large, so two passes over them."""
    return (expand_time(a, x) * x).addcmul_(expand_time(b, y), y)


@dataclass(frozen=True)
class Guided:
    """unconditional + scale (conditional - unconditional) inside `interval`, conditional outside."""

    conditional: Prediction
    unconditional: Prediction
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        conditional = self.conditional(x_t, t)
        low, high = self.interval
        inside = (t >= low) & (t <= high)
        if self.scale == 1.0 or not bool(inside.any()):
            return conditional
        unconditional = self.unconditional(x_t, t)
        scale = torch.where(inside, self.scale, 1.0).to(x_t.dtype)
        return unconditional + expand_time(scale, x_t) * (conditional - unconditional)
