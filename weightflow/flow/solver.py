r"""Solvers of dx/dt = v(x, t) from t = 0 (noise) to t = 1 (a network).

The fixed-step solvers are explicit Runge-Kutta methods, a tableau each; `dopri5` is torchdiffeq's
adaptive Dormand-Prince 5(4). A solver is data: its order and its evaluations a step can be read off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightflow.registry import pick

Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RungeKutta:
    """Stage i is evaluated at t + nodes[i] h from the combination rows[i] of the stages before it."""

    order: int
    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        return len(self.nodes)


EULER = RungeKutta(1, (0.0,), ((),), (1.0,))
MIDPOINT = RungeKutta(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
HEUN = RungeKutta(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = RungeKutta(
    4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)

FIXED_STEP: dict[str, RungeKutta] = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4}
SOLVERS = (*FIXED_STEP, "dopri5")


def solve_fixed(
    velocity: Velocity, x: Tensor, steps: int, method: RungeKutta, start: float, end: float
) -> Tensor:
    """Integrate `x` (batch, ...) over `steps` equal steps from time `start` to `end`."""
    h = (end - start) / steps
    for step in range(steps):
        t = start + step * h
        stages: list[Tensor] = []
        for node, row in zip(method.nodes, method.rows, strict=True):
            shifted = x
            for coefficient, stage in zip(row, stages, strict=False):
                if coefficient:
                    shifted = torch.add(shifted, stage, alpha=h * coefficient)
            stages.append(velocity(shifted, x.new_full((len(x),), t + node * h)))
        for weight, stage in zip(method.weights, stages, strict=True):
            if weight:
                x = torch.add(x, stage, alpha=h * weight)
    return x


def solve(
    velocity: Velocity,
    x_0: Tensor,
    *,
    method: str = "euler",
    steps: int = 4,
    start: float = 0.0,
    end: float = 1.0,
    tolerance: float = 1e-4,
) -> Tensor:
    """Integrate from `start` to `end`; `steps` is for the fixed-step methods, `tolerance` for dopri5."""
    if method == "dopri5":
        return _solve_adaptive(velocity, x_0, start, end, tolerance)
    return solve_fixed(velocity, x_0, steps, pick(FIXED_STEP, method, "solver"), start, end)


def _solve_adaptive(velocity: Velocity, x_0: Tensor, start: float, end: float, tolerance: float) -> Tensor:
    from torchdiffeq import odeint

    times = torch.tensor([start, end], dtype=x_0.dtype, device=x_0.device)
    path = odeint(
        lambda t, x: velocity(x, t.expand(len(x))),
        x_0,
        times,
        method="dopri5",
        rtol=tolerance,
        atol=tolerance,
    )
    return path[-1]
