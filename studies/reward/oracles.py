"""The method's parts against closed forms: a row each case, with its error and its tolerance.

The tests run these rows, and the page shows them.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from model import fresh_noise
from studies.reward import estimator, gaussian
from studies.reward.gaussian import BEST, DATA, A
from studies.reward.guidance import Guided, LowerLevel, Reward

GAMMA = 1e3
NODES = 200_000
STEPS = 200  # of DDIM over T = 1000
CHAINS = 2000
DDPM_CHAINS = 4000


def row(case: str, quantity: str, exact: float, computed: float, tolerance: float) -> dict:
    """One comparison; the error is absolute."""
    error = abs(computed - exact)
    return {
        "case": case, "quantity": quantity, "exact": exact, "computed": computed, "error": error,
        "tolerance": tolerance, "ok": int(error <= tolerance),
    }  # fmt: skip


def all_rows() -> list[dict]:
    """The seven cases."""
    return [line for case in CASES for line in case()]


def tilt() -> Iterator[dict]:
    """1. The tilted law by importance weights, and the slope of E[r1]."""
    x = gaussian.nodes(NODES)
    r1, r2 = gaussian.r1(x), gaussian.linear(x)
    for lam in (3.0, 1.0):
        law, s = gaussian.tilted(lam), r2 / lam
        mean = estimator.mean_under(x, s)
        yield row("1", f"mean of p_λ, λ = {lam:g}", law.mean, mean, 2e-3)
        variance = estimator.mean_under((x - mean) ** 2, s)
        yield row("1", f"variance of p_λ, λ = {lam:g}", law.variance, variance, 5e-3)
        exact, h = gaussian.slope_of_r1(lam), 1e-4
        up, down = (estimator.mean_under(r1, r2 / (lam + d)) for d in (h, -h))
        yield row("1", f"dE[r1]/dλ, finite differences, λ = {lam:g}", exact, (up - down) / 2 / h,
                  5e-3)  # fmt: skip
        limit = -estimator.limit_gradient(r1, r2, lam)
        yield row("1", f"dE[r1]/dλ = −Cov/λ², λ = {lam:g}", exact, limit, 5e-3)


def zeros() -> Iterator[dict]:
    """2. Where the gradients vanish."""
    x = gaussian.nodes(NODES)
    r1, r2 = gaussian.r1(x), gaussian.linear(x)
    for gamma in (1.0, 10.0, GAMMA):
        exact = gaussian.zero_of(lambda lam, gamma=gamma: gaussian.penalty_gradient(lam, gamma))
        zero = gaussian.zero_of(
            lambda lam, gamma=gamma: estimator.weighted_gradient(r1, r2, lam, gamma), 0.3, 5
        )
        yield row("2", f"zero of dL/dλ, γ = {gamma:g}", exact, zero, 2e-3)
    yield row("2", "its limit, the best λ", BEST, exact, 1e-3)
    zero = gaussian.zero_of(lambda lam: estimator.published_gradient(r1, r2, lam, GAMMA), 0.3, 5)
    yield row("2", "zero of the published estimator: half the best λ", BEST / 2, zero, 5e-3)


def noise() -> Iterator[dict]:
    """3. Few samples: unbiased at a large lambda, far too small a gradient at a small one."""
    for lam, n, repeats, tolerance in ((3.0, 256, 400, 0.003), (0.7, 64, 400, math.inf)):
        exact = gaussian.penalty_gradient(lam, GAMMA)
        values = []
        for seed in range(repeats):
            x = gaussian.draws(n, seed)
            g = estimator.weighted_gradient(gaussian.r1(x), gaussian.linear(x), lam, GAMMA)
            values.append(g)
        spread = float(np.std(values, ddof=1))
        name = f"dL/dλ, λ = {lam:g}, N = {n} (deviation of one estimate {spread:.3f})"
        yield row("3", name, exact, float(np.mean(values)), tolerance)


def linear_guidance() -> Iterator[dict]:
    """4. Guidance by a linear reward reaches the tilted law."""
    for steps in (50, STEPS):
        x = guided(Guided, gaussian.linear, 1.0, steps)
        law = gaussian.tilted(1.0)
        yield row("4", f"mean, {steps} DDIM steps", law.mean, float(x.mean()), 0.025)
        yield row("4", f"variance, {steps} DDIM steps", law.variance, float(x.var()), 0.12)


def girsanov() -> Iterator[dict]:
    """5. KL(p_lambda || p_data) from the shifts of a guided chain, by Girsanov's theorem."""
    exact = DATA.variance * A**2 / 2
    for timesteps, tolerance in ((250, 0.03), (1000, 0.01)):
        yield row("5", f"path KL of DDPM, T = {timesteps}", exact, path_kl(timesteps), tolerance)


def quadratic_guidance() -> Iterator[dict]:
    """6. A quadratic reward needs the posterior's variance; plain guidance overshoots."""
    exact = gaussian.tilted_by_quadratic(0.5).mean
    plain = guided(Guided, gaussian.quadratic, 0.5, STEPS)
    corrected = guided(gaussian.Corrected, gaussian.quadratic, 0.5, STEPS)
    yield row("6", "mean, plain guidance: overshoots", exact, float(plain.mean()), math.inf)
    yield row("6", "mean, with 1/(λ + k v_t)", exact, float(corrected.mean()), 0.02)


def iterated() -> Iterator[dict]:
    """7. Repeated linearisation: p_lambda's mean, but not its variance, and only while q < 1."""
    for q, passes, tolerance in ((0.42, 7, 0.02), (0.85, 40, 0.02)):
        lam = DATA.variance * gaussian.K / q
        law = gaussian.tilted_by_quadratic(lam)
        x = linearised(gaussian.quadratic, lam, passes)
        name = f"{passes} passes, q = {q}"
        yield row("7", f"mean, {name}", law.mean, float(x.mean()), tolerance)
        exact = DATA.variance / (1 + q) ** 2
        yield row("7", f"variance s²/(1 + q)², {name}", exact, float(x.var()), 0.08)
        yield row("7", f"variance of p_λ, {name}", law.variance, float(x.var()), math.inf)
    lam = DATA.variance * gaussian.K / 1.7
    errors = [abs(float(linearised(gaussian.quadratic, lam, n).mean())
                  - gaussian.tilted_by_quadratic(lam).mean) for n in (4, 5)]  # fmt: skip
    yield row("7", "growth of the mean's error per pass, q = 1.7", 1.7, errors[1] / errors[0], 0.1)


def guided(kind: type[Guided], reward: Reward, lam: float, steps: int) -> Tensor:
    """DDIM chains of T = 1000 from evenly spread noise, (CHAINS,1)."""
    process = gaussian.process_of(1000)
    net = kind(gaussian.Denoiser(process), process, summed(reward), lam)
    return process.sample(net, gaussian.starting_noise(CHAINS), steps, clip=False)


def linearised(reward: Reward, lam: float, passes: int) -> Tensor:
    """The same chains by the lower level's linearised mode."""
    process = gaussian.process_of(1000)
    denoiser = gaussian.Denoiser(process)

    def draw(noise, r, strength):
        net = denoiser if r is None else Guided(denoiser, process, r, strength)
        return process.sample(net, noise, 50, clip=False)

    lower = LowerLevel("linearised", passes)
    return lower(draw, gaussian.starting_noise(200), summed(reward), lam)


def summed(reward: Reward) -> Reward:
    """A reward of numbers as one of samples: (B,1) -> (B,)."""
    return lambda x: reward(x).sum(1)


def path_kl(timesteps: int) -> float:
    """1/2 E sum of (shift of the mean)²/variance over the steps of guided DDPM, lambda 1."""
    process = gaussian.process_of(timesteps)
    net = Guided(gaussian.Denoiser(process), process, summed(gaussian.linear), 1.0)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(DDPM_CHAINS, 1, dtype=torch.float64, generator=generator)
    process.sample(net, start, timesteps, eta=1.0, clip=False, fresh=fresh_noise(generator))
    signal, noise, _ = process.levels()
    total = 0.0
    times = range(len(net.sizes), 0, -1)  # the first steps may be unguided
    for size, t in zip(net.sizes, times, strict=True):
        if t > 1:  # the last step adds no noise
            total += float(size.square().mean() * shift_over_sigma(signal, noise, t) ** 2 / 2)
    return total


def shift_over_sigma(signal: Tensor, noise: Tensor, t: int) -> float:
    """How far a unit gradient moves the mean of x_{t-1}, in deviations of that step."""
    kept = 1 - (signal[t] / signal[t - 1]) ** 2
    sigma = noise[t - 1] / noise[t] * kept.sqrt()
    direction = (noise[t - 1] ** 2 - sigma**2).clamp(min=0).sqrt()
    return float((direction - signal[t - 1] * noise[t] / signal[t]) * noise[t] / sigma)


CASES: tuple[Callable[[], Iterator[dict]], ...] = (
    tilt, zeros, noise, linear_guidance, girsanov, quadratic_guidance, iterated,
)  # fmt: skip
