r"""Denoising step by step: the samplers of diffusion, from a prediction of the clean end.

From time t to a later time s, with x_1 predicted and e = (x_t - alpha_t x_1) / sigma_t,

    x_s = alpha_s x_1 + sqrt(sigma_s^2 - v) e + sqrt(v) n,   n ~ N(0, source^2),
    v   = eta^2 (sigma_s / sigma_t)^2 (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2).

eta = 1 draws from the posterior q(x_s | x_t, x_1): ancestral sampling (Ho et al. 2020, arXiv:2006.11239).
eta = 0 draws nothing: DDIM (Song et al. 2021, arXiv:2010.02502). Both hold for every schedule; on the
straight path DDIM is Euler's method. The last step is the jump to the predicted clean end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from canon.errors import InputError
from weightflow.flow.schedule import Schedule
from weightflow.flow.velocity import Prediction

Noise = Callable[[], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """One evaluation a step; `eta` is the share of the posterior's noise that each step draws."""

    eta: float

    @property
    def draws(self) -> bool:
        """Whether it needs noise beyond that at the start."""
        return self.eta > 0


DENOISERS: dict[str, Denoiser] = {"ddim": Denoiser(0.0), "ancestral": Denoiser(1.0)}


def denoise(
    clean: Prediction,
    schedule: Schedule,
    x: Tensor,
    *,
    method: Denoiser,
    steps: int,
    start: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """Denoise `x` (batch, ...) from time `start` to 1 in equal steps; `noise` draws n, shaped like x.

    `InputError` where the method draws noise and has none to draw from.
    """
    if method.draws and noise is None:
        raise InputError("this sampler draws noise at every step; say where from")
    h = (1.0 - start) / steps
    for step in range(steps):
        # two times at once, and not all: any number of steps may be asked for
        times = torch.tensor([start + step * h, start + (step + 1) * h], dtype=torch.float64)
        x_1 = clean(x, x.new_full((len(x),), float(times[0])))
        if step == steps - 1:
            return x_1
        (a_t, a_s), (s_t, s_s) = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
        posterior = (s_s / s_t) ** 2 * max(s_t**2 - (a_t / a_s) ** 2 * s_s**2, 0.0)
        v = method.eta**2 * posterior
        kept = max(s_s**2 - v, 0.0) ** 0.5 / s_t
        # in place, except for the caller's tensor: whole networks are large
        x = (x.mul(kept) if step == 0 else x.mul_(kept)).add_(x_1, alpha=a_s - kept * a_t)
        if noise is not None and method.draws:
            x = x + v**0.5 * noise()
    return x
