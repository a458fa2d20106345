"""A step rule for q that stands still on noise.

A step is at most a parameter's rate, and less by how uncertain the slope is: none within 3 standard
errors of 0. There is no momentum that would push into a bound, and no division by a running size,
which makes full steps of pure noise. The noise of one update need not be independent of that of the
next: averages of weights remember longer than an update. The standard error is that of noise with
the lag-1 correlation r that the slopes show, an AR(1) process.
"""

import math

import torch
from torch import Tensor

from common.errors import check_finite
from common.schedule_optimizer import held_of, rates_of
from scheduler import Schedule, projected

MEMORY = 0.8  # of the running mean of a slope: about five updates
LONG = 0.95  # of the running moments that r is estimated from
PRIOR, PRIOR_COUNT = 0.5, 4  # what r is taken to be, worth so many updates
HIGHEST = 0.85  # r: a slope that turns looks like correlation too, and has to be followed
FEWEST = 4  # updates before which nothing is known of the noise
ERRORS = 3.0  # standard errors below which nothing moves


class Moments:
    """Running moments of slopes (..., p): the mean, its standard error, and r."""

    def __init__(self, *shape: int):
        self.count = 0
        self.recent = torch.zeros(2, *shape, dtype=torch.float64)  # mean, mean square
        self.long = torch.zeros(3, *shape, dtype=torch.float64)  # and of g times the one before
        self.last = torch.zeros(shape, dtype=torch.float64)

    def follow(self, g: Tensor) -> None:
        """Take in the slopes of one update."""
        self.count += 1
        new = torch.stack([g, g * g, g * self.last])
        self.recent = MEMORY * self.recent + (1 - MEMORY) * new[:2]
        self.long = LONG * self.long + (1 - LONG) * new
        self.last = g

    def correlation(self) -> Tensor:
        """r, the mean over the parameters (..., 1), drawn towards PRIOR while updates are few."""
        if self.count < 2:
            return torch.full_like(self.last[..., :1], PRIOR)
        seen = 1 - LONG**self.count
        mean, square = self.long[:2] / seen
        product = self.long[2] / (seen - (1 - LONG) * LONG ** (self.count - 1))  # one term less
        variance = (square - mean**2).clamp(min=0)
        noisy = variance > 1e-12 * square
        r = torch.where(noisy, (product - mean**2) / variance.where(noisy, 1.0), 0.0)
        r = r.clamp(-1, 1).mean(-1, keepdim=True)
        worth = min(self.count, (1 + LONG) / (1 - LONG))
        r = r + (1 + 4 * r) / worth  # the bias of r where the mean is estimated too
        weight = self.count / (self.count + PRIOR_COUNT)
        return (weight * r + (1 - weight) * PRIOR).clamp(0, HIGHEST)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """The running means and their standard errors."""
        seen = 1 - MEMORY**self.count
        mean, square = self.recent / max(seen, 1e-9)
        if self.count < FEWEST:
            return mean, torch.full_like(mean, math.inf)
        r = self.correlation()
        # variance of the mean in variances of a slope: white noise, then AR(1) by its limit of
        # many updates; of fewer than twelve that is too much, as their own variance is too little
        white = (1 - MEMORY) / (1 + MEMORY) * (1 + MEMORY**self.count) / seen
        part = (white * (1 + MEMORY * r) / (1 - MEMORY * r)).clamp(max=0.98)
        # the variance around the running mean lacks that part
        return mean, ((square - mean**2).clamp(min=0) * part / (1 - part)).sqrt()

    def steps(self, updates: int) -> Tensor:
        """What to take off each parameter, in rates; the last half slows down, then all stand."""
        slope, error = self.slopes()
        late = min(1.0, max(0.0, 2 * (1 - (self.count - 1) / max(1, updates))))
        return late * sureness(slope, error).copysign(slope)

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class SteadySteps:
    """Moves q against the running mean of its slope, by what of it is no noise."""

    def __init__(self, schedule: Schedule, lr_beta: list[float], updates: int):
        self.schedule, self.updates = schedule, updates
        self.rates = rates_of(schedule, lr_beta)
        self.moments = Moments(len(self.rates))

    @property
    def count(self) -> int:
        """Updates made."""
        return self.moments.count

    def step(self, gradient: Tensor) -> None:
        """One update along -gradient, (p,)."""
        slopes = gradient.double().cpu()
        check_finite(slopes.abs().sum().item(), "the gradient of the schedule")
        self.moments.follow(slopes)
        steps = self.moments.steps(self.updates).tolist()
        with torch.no_grad():
            for (name, parameter), step in zip(self.schedule.q.items(), steps, strict=True):
                parameter.sub_(self.rates[name] * step)
        self.schedule.project_(held_of(self.rates))

    def slopes(self) -> dict[str, tuple[float, float]]:
        """parameter -> running mean of its slope, and the standard error of that mean."""
        if not self.count:
            return {}
        pairs = zip(*(part.tolist() for part in self.moments.slopes()), strict=True)
        return dict(zip(self.schedule.q, pairs, strict=True))

    def state_dict(self) -> dict:
        return {"q": self.schedule.state_dict(), "moments": self.moments.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.schedule.load_state_dict(state["q"])
        self.moments.load_state_dict(state["moments"])


def sureness(slope: Tensor, error: Tensor) -> Tensor:
    """The part of a full step that a slope is worth, in [0, 1]: 0 within ERRORS of 0."""
    ratio = ERRORS * error / slope.abs()  # nan where both are 0: no step
    return (1 - ratio**2).clamp(min=0).nan_to_num(0.0)


def null_paths(
    schedule: Schedule,
    lr_beta: list[float],
    updates: int,
    correlation: float = 0.0,
    runs: int = 200,
    random: torch.Generator | None = None,
) -> Tensor:
    """Where noise alone takes the parameters, update by update: (updates+1,runs,p).

    All runs go at once. The noise is an AR(1) process with that lag-1 correlation.
    """
    random = random or torch.Generator().manual_seed(0)
    rates = torch.tensor(list(rates_of(schedule, lr_beta).values()), dtype=torch.float64)
    names, moments = list(schedule.q), Moments(runs, len(rates))
    held = held_of(rates_of(schedule, lr_beta))
    q = schedule.vector().cpu().expand(runs, -1)
    noise, paths = torch.randn(q.shape, generator=random, dtype=torch.float64), [q]
    for _ in range(updates):
        moments.follow(noise)
        q = projected(schedule.family, names, q - rates * moments.steps(updates), held)
        paths.append(q)
        fresh = torch.randn(q.shape, generator=random, dtype=torch.float64)
        noise = correlation * noise + (1 - correlation**2) ** 0.5 * fresh
    return torch.stack(paths)
