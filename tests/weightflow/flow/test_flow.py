"""Laws of the flow: derivatives, orders of the solvers, conversions, guidance."""

import math

import pytest
import torch

from canon.errors import InputError
from weightflow.flow.denoising import DENOISERS, Denoiser, denoise
from weightflow.flow.draws import NoiseDraws
from weightflow.flow.objective import TIMES, ObjectiveConfig, match
from weightflow.flow.schedule import SCHEDULES
from weightflow.flow.solver import FIXED_STEP, solve
from weightflow.flow.velocity import CleanToVelocity, Guided, VelocityToClean

ALL_SCHEDULES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@ALL_SCHEDULES
@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_derivatives_equal_autograd(schedule, name):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(getattr(schedule, name)(t).sum(), t)
    torch.testing.assert_close(getattr(schedule, f"d_{name}")(t.detach()), expected, atol=1e-9, rtol=1e-9)


@ALL_SCHEDULES
def test_time_runs_from_noise_to_network(schedule):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t), t, atol=0.01, rtol=0)
    torch.testing.assert_close(schedule.sigma(t), 1 - t, atol=0.01, rtol=0)


def gaussian_velocity(schedule, spread):
    """The exact velocity that carries N(0, 1) to N(0, spread^2) along a schedule."""

    def velocity(x, t):
        a, s = schedule.alpha(t), schedule.sigma(t)
        variance = (a * spread) ** 2 + s**2
        slope = (a * schedule.d_alpha(t) * spread**2 + s * schedule.d_sigma(t)) / variance
        return slope.reshape(-1, 1) * x

    return velocity


def standard_deviation(schedule, spread, t):
    time = torch.tensor(t, dtype=torch.float64)
    return float(((schedule.alpha(time) * spread) ** 2 + schedule.sigma(time) ** 2).sqrt())


@pytest.mark.parametrize(("name", "method"), FIXED_STEP.items(), ids=FIXED_STEP)
def test_measured_order_of_each_solver(name, method):
    # on the straight path the midpoint rule happens to be one order better than it is
    schedule, spread, end = SCHEDULES["diffusion"], 0.5, 0.7
    velocity = gaussian_velocity(schedule, spread)
    x_0 = torch.full((1, 1), standard_deviation(schedule, spread, 0.0), dtype=torch.float64)
    exact = standard_deviation(schedule, spread, end)
    errors = [abs(float(solve(velocity, x_0, method=name, steps=n, end=end)) - exact) for n in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.1)


def test_dopri5_reaches_the_exact_end():
    x_0 = torch.ones(2, 3, dtype=torch.float64)
    end = solve(gaussian_velocity(SCHEDULES["flow"], 3.0), x_0, method="dopri5", tolerance=1e-8)
    torch.testing.assert_close(end, 3 * x_0, atol=1e-6, rtol=0)


def test_an_unknown_solver_lists_what_there_is():
    with pytest.raises(InputError, match="unknown solver 'rk5'; there are: euler, heun, midpoint, rk4"):
        solve(lambda x, t: x, torch.ones(1, 1), method="rk5")


def gaussian_clean(schedule, mean, spread):
    """E[x_1 | x_t] where x_1 is N(mean, spread^2)."""

    def clean(x, t):
        a, s = schedule.alpha(t).view(-1, 1), schedule.sigma(t).view(-1, 1)
        return mean + a * spread**2 / ((a * spread) ** 2 + s**2) * (x - a * mean)

    return clean


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@ALL_SCHEDULES
def test_a_denoising_step_lands_on_the_path_of_a_known_end(schedule, eta):
    """Whatever noise a step draws, x_s keeps mean alpha_s x_1 and variance sigma_s^2."""
    generator, seen = torch.Generator().manual_seed(0), []
    x_0 = torch.randn(50_000, 1, generator=generator, dtype=torch.float64)

    def clean(x, t):
        seen.append((x, t))
        return torch.full_like(x, 2.0)

    def noise():
        return torch.randn(x_0.shape, generator=generator, dtype=torch.float64)

    start = torch.tensor(0.3, dtype=torch.float64)
    x_t = 2 * schedule.alpha(start) + schedule.sigma(start) * x_0
    denoise(clean, schedule, x_t, method=Denoiser(eta), steps=2, start=0.3, noise=noise)
    x_s, s = seen[1][0], seen[1][1][0]
    assert float(s) == pytest.approx(0.65)
    assert float(x_s.mean()) == pytest.approx(float(2 * schedule.alpha(s)), abs=0.02)
    assert float(x_s.std()) == pytest.approx(float(schedule.sigma(s)), rel=0.02)


def test_ddim_follows_the_flow_of_a_gaussian_with_order_one():
    schedule, spread = SCHEDULES["diffusion"], 0.5
    clean = gaussian_clean(schedule, 0.0, spread)
    x_0 = torch.full((1, 1), standard_deviation(schedule, spread, 0.0), dtype=torch.float64)
    errors = [
        abs(float(denoise(clean, schedule, x_0, method=DENOISERS["ddim"], steps=n)) - spread)
        for n in (200, 400)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


def test_on_the_straight_path_ddim_is_eulers_method():
    schedule = SCHEDULES["flow"]
    x_0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def clean(x, t):
        return torch.tanh(x + t.view(-1, 1))

    x = solve(CleanToVelocity(clean, schedule), x_0, steps=4, end=0.8)
    euler = clean(x, torch.full((3,), 0.8, dtype=torch.float64))
    ddim = denoise(clean, schedule, x_0, method=DENOISERS["ddim"], steps=5)
    torch.testing.assert_close(ddim, euler, atol=1e-9, rtol=1e-9)


def test_ancestral_sampling_reproduces_mean_and_spread_of_a_gaussian():
    schedule, generator = SCHEDULES["diffusion"], torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(20_000, 1, generator=generator)

    x = denoise(
        gaussian_clean(schedule, 1.5, 0.5),
        schedule,
        noise(),
        method=DENOISERS["ancestral"],
        steps=300,
        noise=noise,
    )
    assert float(x.mean()) == pytest.approx(1.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, rel=0.04)


def test_a_sampler_that_draws_says_where_it_draws_from():
    with pytest.raises(InputError, match="draws noise at every step"):
        denoise(
            lambda x, t: x,
            SCHEDULES["flow"],
            torch.ones(1, 1),
            method=DENOISERS["ancestral"],
            steps=2,
        )


@ALL_SCHEDULES
def test_clean_and_velocity_predictions_are_inverse(schedule):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    guess = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    back = VelocityToClean(CleanToVelocity(lambda x, time: guess, schedule), schedule)(x_t, t)
    torch.testing.assert_close(back, guess, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("predict", ["clean", "velocity"])
def test_a_perfect_prediction_has_no_loss_and_knows_the_network(path, predict):
    config = ObjectiveConfig(path=path, predict=predict)
    x_1 = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    used = torch.ones_like(x_1, dtype=torch.bool)
    s = config.schedule

    def oracle(x_t, t):
        a, b = s.alpha(t).view(-1, 1, 1), s.sigma(t).view(-1, 1, 1)
        if predict == "clean":
            return x_1
        return s.d_alpha(t).view(-1, 1, 1) * x_1 + s.d_sigma(t).view(-1, 1, 1) * (x_t - a * x_1) / b

    found = match(config, oracle, x_1, used, NoiseDraws(torch.Generator().manual_seed(1)))
    assert float(found.error.max()) < 1e-4
    torch.testing.assert_close(found.x_1, x_1, atol=1e-2, rtol=1e-2)


def test_noise_is_fresh_at_every_step():
    seen = []

    def spy(x_t, t):
        seen.append(x_t)
        return x_t

    x_1, generator = torch.zeros(2, 3, 4), torch.Generator().manual_seed(0)
    used = torch.ones_like(x_1, dtype=torch.bool)
    for _ in range(2):
        match(ObjectiveConfig(), spy, x_1, used, NoiseDraws(generator))
    assert not torch.equal(seen[0], seen[1])


def test_guidance_extrapolates_inside_its_interval_only():
    yes, no = (lambda x, t: torch.full_like(x, 2.0)), (lambda x, t: torch.full_like(x, 1.0))
    guided = Guided(yes, no, scale=3.0, interval=(0.4, 0.6))
    x, t = torch.zeros(3, 1), torch.tensor([0.1, 0.5, 0.9])
    assert guided(x, t).flatten().tolist() == [2.0, 4.0, 2.0]


@pytest.mark.parametrize(("name", "spread"), [("uniform", 1 / 12**0.5), ("logit-normal", 0.208)])
def test_times_have_the_distribution_of_their_name(name, spread):
    t = TIMES[name](20_000, NoiseDraws(torch.Generator().manual_seed(0)))
    assert 0 <= float(t.min()) <= float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(t.std()) == pytest.approx(spread, abs=0.005)


@ALL_SCHEDULES
@pytest.mark.parametrize("predict", ["clean", "velocity"])
def test_with_a_silent_model_the_prior_passes_noise_on(schedule, predict):
    """The exact flow of N(0, s^2) to N(0, p^2) multiplies by p / s."""
    path = next(name for name, own in SCHEDULES.items() if own is schedule)
    config = ObjectiveConfig(path, predict, source=0.5, prior=0.8)
    x_0 = 0.5 * torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    silent = config.velocity(lambda x, t: torch.zeros_like(x))
    x = solve(silent, x_0, method="rk4", steps=400, start=1e-6, end=1 - 2e-3)
    torch.testing.assert_close(x, x_0 * 0.8 / 0.5, atol=1e-2, rtol=1e-2)


def test_the_prior_is_the_best_prediction_of_a_gaussian():
    """Of all gains, that of the prior has the smallest error."""
    x_1 = 0.7 * torch.randn(4000, 1, 2, generator=torch.Generator().manual_seed(0))
    used = torch.ones_like(x_1, dtype=torch.bool)

    def error(gain):
        config = ObjectiveConfig(prior=0.7)
        found = match(config, lambda x, t: gain * x, x_1, used, NoiseDraws(torch.Generator().manual_seed(1)))
        return float(found.error.mean())

    assert error(0.0) < min(error(0.1), error(-0.1))


def test_noise_around_the_path_is_where_it_is_asked_for():
    x_1, used = torch.zeros(2000, 1, 2), torch.ones(2000, 1, 2, dtype=torch.bool)
    config = ObjectiveConfig(source=1e-6, jitter=0.3)
    found = match(config, lambda x, t: x, x_1, used, NoiseDraws(torch.Generator().manual_seed(0)))
    assert float(found.x_t.std()) == pytest.approx(0.3, rel=0.05)


def test_a_source_without_noise_is_refused():
    with pytest.raises(InputError, match="objective.source 0 has no noise to learn a distribution from"):
        ObjectiveConfig(source=0.0)


def test_any_number_of_denoising_steps_takes_no_memory():
    class Stopped(Exception):
        pass

    times = []

    def clean(x, t):
        times.append(float(t[0]))
        if len(times) == 3:
            raise Stopped
        return x

    with pytest.raises(Stopped):
        denoise(clean, SCHEDULES["diffusion"], torch.zeros(1, 2), method=DENOISERS["ddim"], steps=10**15)
    assert times == [0.0, pytest.approx(1e-15), pytest.approx(2e-15)]
