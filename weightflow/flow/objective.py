r"""The loss of flow matching and of diffusion: one model, one line of mathematics.

    x_t = alpha(t) x_1 + sigma(t) x_0 + jitter e,   x_0 ~ N(0, source^2),  e ~ N(0, 1),  t uniform or logit-normal
    loss = mean |prediction - target|^2  with target x_1 (clean) or alpha' x_1 + sigma' x_0 (velocity)

Noise is fresh at every step. Sources: Lipman et al. 2023, arXiv:2210.02747; Esser et al. 2024,
arXiv:2403.03206 (logit-normal times); Ho et al. 2020, arXiv:2006.11239.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.flow.draws import NoiseDraws
from weightflow.flow.prior import WithPrior
from weightflow.flow.schedule import SCHEDULES, Schedule, expand_time
from weightflow.flow.velocity import CleanToVelocity, Prediction, VelocityToClean
from weightflow.registry import pick


def uniform_times(count: int, draws: NoiseDraws) -> Tensor:
    return draws.uniform(count)


def logit_normal_times(count: int, draws: NoiseDraws) -> Tensor:
    return draws.normal(count).sigmoid()


TIMES: dict[str, Callable[[int, NoiseDraws], Tensor]] = {
    "uniform": uniform_times,
    "logit-normal": logit_normal_times,
}
PREDICTS = ("clean", "velocity")


@dataclass(frozen=True)
class ObjectiveConfig:
    """`path` flow or diffusion, `predict` clean or velocity, `times` uniform or logit-normal.

    `source` is the standard deviation of the noise at t = 0, `jitter` that of the noise around the path
    (s and sigma of DeepWeightFlow); with a source of 0 every seed gives one network. `weight` is that of this
    loss beside all others; 0 learns nothing from the zoo's weights. `prior` is the spread of the Gaussian whose prediction the model's is
    added to; 0 for none.
    """

    path: str = "flow"
    predict: str = "clean"
    times: str = "uniform"
    source: float = 1.0
    jitter: float = 0.0
    prior: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        pick(SCHEDULES, self.path, "path")
        pick(TIMES, self.times, "distribution of times")
        if self.predict not in PREDICTS:
            raise InputError(f"the model cannot predict '{self.predict}'; it can: {', '.join(PREDICTS)}")
        if min(self.source, self.jitter, self.prior, self.weight) < 0:
            raise InputError(
                f"objective: source {self.source}, jitter {self.jitter}, prior {self.prior} and weight "
                f"{self.weight} must be at least 0"
            )
        if not self.source and (self.prior or self.weight):
            raise InputError(
                "objective.source 0 has no noise to learn a distribution from: set source above 0, or "
                "objective.weight and objective.prior to 0"
            )

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.path]

    def clean(self, model: Prediction) -> Prediction:
        """The prediction of x_1 that a model of this objective implies."""
        whole = self.whole(model)
        return whole if self.predict == "clean" else VelocityToClean(whole, self.schedule)

    def velocity(self, model: Prediction) -> Prediction:
        """The velocity that a model of this objective implies."""
        whole = self.whole(model)
        return whole if self.predict == "velocity" else CleanToVelocity(whole, self.schedule)

    def whole(self, model: Prediction) -> Prediction:
        """The model's prediction and the prior's together."""
        if not self.prior:
            return model
        return WithPrior(model, self.schedule, self.prior, self.source, self.predict == "clean")


@dataclass(frozen=True)
class MatchLoss:
    """Squared error of each network (batch,), the predicted clean networks, what they were predicted
    from, and when."""

    error: Float[Tensor, " batch"]
    x_1: Float[Tensor, "batch tokens width"]
    x_t: Float[Tensor, "batch tokens width"]
    t: Float[Tensor, " batch"]


def match(
    config: ObjectiveConfig,
    model: Prediction,
    x_1: Float[Tensor, "batch tokens width"],
    used: Bool[Tensor, "batch tokens width"],
    draws: NoiseDraws,
) -> MatchLoss:
    """One draw of noise and time for each network, and the model's error on it over the used entries."""
    s = config.schedule
    t = TIMES[config.times](len(x_1), draws)
    x_0 = _noise(config.source, x_1, used, draws)
    x_t = (expand_time(s.alpha(t), x_1) * x_1).addcmul_(expand_time(s.sigma(t), x_1), x_0)
    if config.jitter:
        x_t += _noise(config.jitter, x_1, used, draws)
    said = model(x_t, t)
    predicted = config.whole(lambda x, time: said)(x_t, t) * used
    if config.predict == "velocity":
        target = expand_time(s.d_alpha(t), x_1) * x_1 + expand_time(s.d_sigma(t), x_1) * x_0
        clean = config.clean(lambda x, time: said)(x_t, t) * used
    else:
        target, clean = x_1, predicted
    # both are zero where an entry is not used
    error = F.mse_loss(predicted, target, reduction="none").sum((1, 2)) / _numbers(used)
    return MatchLoss(error, clean, x_t, t)


def _noise(deviation: float, like: Tensor, used: Tensor, draws: NoiseDraws) -> Tensor:
    return draws.normal(*like.shape).mul_(deviation).mul_(used)


def _numbers(used: Bool[Tensor, "batch tokens width"]) -> Tensor:
    """How many entries each network uses. Networks of one task share one mask, expanded."""
    return used[0].sum() if used.stride(0) == 0 else used.sum((1, 2))
