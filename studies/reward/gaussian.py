"""One-dimensional Gaussian data, for which every quantity of the method has a closed form.

p_data = N(m, s2); r1 = -1/2 (x - c)²; r2 = a x, or -k/2 (x - b)². All functions are exact.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model import Diffusion
from scheduler import Schedule
from studies.reward.guidance import Guided


class Normal(NamedTuple):
    """A law in one dimension."""

    mean: float
    variance: float

    def kl(self, other: "Normal") -> float:
        """KL(self || other)."""
        ratio = self.variance / other.variance
        gap = (self.mean - other.mean) ** 2 / other.variance
        return (ratio - 1 - math.log(ratio) + gap) / 2


DATA = Normal(0.3, 1.7)
A, C = 0.8, 1.5  # of the linear r2 and of r1
K, B = 1.0, 3.0  # of the quadratic r2
BEST = DATA.variance * A / (C - DATA.mean)  # lambda where E[r1] is largest


def r1(x):
    return -0.5 * (x - C) ** 2


def linear(x):
    return A * x


def quadratic(x):
    return -K / 2 * (x - B) ** 2


def tilted(lam: float, gamma: float = math.inf) -> Normal:
    """p_data exp((a x + r1/gamma)/lambda), normalised."""
    precision = 1 / DATA.variance + 1 / (gamma * lam)
    mean = (DATA.mean / DATA.variance + A / lam + C / (gamma * lam)) / precision
    return Normal(mean, 1 / precision)


def tilted_by_quadratic(lam: float) -> Normal:
    """p_data exp(-k/2 (x - b)²/lambda), normalised."""
    precision = 1 / DATA.variance + K / lam
    return Normal((DATA.mean / DATA.variance + K * B / lam) / precision, 1 / precision)


def slope_of_r1(lam: float) -> float:
    """dE[r1]/dlambda under p_lambda."""
    shift = DATA.variance * A / lam
    return (DATA.mean + shift - C) * shift / lam


def penalty_gradient(lam: float, gamma: float) -> float:
    """gamma [KL(p_gamma || p_data) - KL(p_lambda || p_data)]."""
    return gamma * (tilted(lam, gamma).kl(DATA) - tilted(lam).kl(DATA))


def zero_of(f: Callable[[float], float], low: float = 0.05, high: float = 50.0) -> float:
    """Where f, negative below and positive above or the reverse, is 0: log-interval halving."""
    sign = f(high) > 0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if (f(middle) > 0) == sign else (middle, high)
    return math.sqrt(low * high)


def draws(n: int, seed: int) -> np.ndarray:
    """n samples of the data, (n,)."""
    return np.random.default_rng(seed).normal(DATA.mean, math.sqrt(DATA.variance), n)


def nodes(n: int) -> np.ndarray:
    """n points of equal probability, (n,): samples without their noise."""
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return DATA.mean + math.sqrt(DATA.variance) * quantiles.numpy()


class Denoiser(nn.Module):
    """The best prediction of the noise, E[eps | x_t]."""

    def __init__(self, process: Diffusion):
        super().__init__()
        self.process = process

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, noise, _ = (c[t] for c in self.process.levels())
        return noise * (x - signal * DATA.mean) / (signal**2 * DATA.variance + noise**2)


class Corrected(Guided):
    """Guidance by the quadratic r2 with 1/(lambda + k v_t), v_t = Var(x0 | x_t): exact."""

    def strength(self, signal: Tensor, noise: Tensor) -> Tensor:
        v = DATA.variance * noise**2 / (signal**2 * DATA.variance + noise**2)
        return 1 / (self.lam + K * v)


def process_of(timesteps: int) -> Diffusion:
    """The linear betas of Ho et al. in float64."""
    return Diffusion(Schedule("ddpm", timesteps), dtype=torch.float64)


def starting_noise(n: int) -> Tensor:
    """n points of equal probability of N(0, 1), (n,1)."""
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.special.ndtri(grid)[:, None]
