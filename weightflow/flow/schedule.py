r"""Paths from noise to networks: x_t = alpha(t) x_1 + sigma(t) x_0; t = 0 is noise, t = 1 a network.

The straight path of flow matching (Lipman et al. 2023, arXiv:2210.02747) has alpha = t, sigma = 1 - t.
The variance-preserving path of denoising diffusion (Ho et al. 2020, arXiv:2006.11239) has
alpha^2 + sigma^2 = 1; its linear beta runs from `beta_max` at the noise end to `beta_min` at the data:
with s = 1 - t, log alpha = -(s beta_min / 2 + s^2 (beta_max - beta_min) / 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """Times (batch,) with trailing axes of size one, so that they multiply `x` (batch, ...)."""
    return t.reshape(-1, *[1] * (x.dim() - 1))


class Schedule(ABC):
    """alpha, sigma and their derivatives at times of any shape."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """Betas are those of 1,000 discrete steps times 1,000: 0.1 to 20 is DDPM's 1e-4 to 0.02."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        s = 1 - t
        return -(s * self.beta_min / 2 + s**2 * (self.beta_max - self.beta_min) / 4)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        # expm1: near t = 1 the difference 1 - alpha^2 cancels in float32
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        s = 1 - t
        return self.alpha(t) * (self.beta_min / 2 + s * (self.beta_max - self.beta_min) / 2)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)


SCHEDULES: dict[str, Schedule] = {"flow": LinearSchedule(), "diffusion": VariancePreserving()}
