"""Sampling configuration: a solver of the flow or a sampler of diffusion."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError
from weightflow.flow.denoising import DENOISERS
from weightflow.flow.solver import FIXED_STEP, SOLVERS
from weightflow.registry import pick

# An adaptive solver integrates to 1 - 1 / this and takes the rest in one step.
ADAPTIVE_SHARE = 20


@dataclass(frozen=True)
class SampleConfig:
    """`steps` is for all but the adaptive solver; guidance 1 uses the prompt alone.

    The last step is a `jump` to the predicted clean network: the velocity that it implies divides by
    sigma, which is zero at the end. On the straight path an Euler step is that very jump. Without it the
    solver goes all the way, as models that predict the velocity allow.

    `noise` scales the noise at the start: below 1 networks of one prompt are more accurate each and more alike, at
    0 every seed gives one network.

    Example:
        >>> import weightflow
        >>> weightflow.SampleConfig(method="rk4", steps=3).evaluations
        9
    """

    method: str = "euler"
    steps: int = 4
    jump: bool = True
    guidance: float = 1.0
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    batch_size: int = 256
    noise: float = 1.0

    def __post_init__(self) -> None:
        pick(dict.fromkeys((*SOLVERS, *DENOISERS)), self.method, "solver")
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"steps {self.steps} and batch size {self.batch_size} must be at least 1")
        if len(self.guidance_interval) != 2:
            raise InputError(f"setting 'guidance_interval' is two numbers, found {self.guidance_interval}")
        if self.noise < 0:
            raise InputError(f"noise is {self.noise}; it scales the noise at the start and is at least 0")

    @property
    def draws(self) -> bool:
        """Whether noise is drawn on the way, and not only at the start."""
        return self.method in DENOISERS and DENOISERS[self.method].draws

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the model a network, or None where the solver adapts."""
        if self.method == "dopri5":
            return None
        stages = FIXED_STEP[self.method].evaluations if self.method in FIXED_STEP else 1
        last = 1 if self.jump else stages
        return ((self.steps - 1) * stages + last) * (1 if self.guidance == 1.0 else 2)
