"""A step rule for q that stands still on noise.

A step is at most a parameter's rate, and less by how uncertain the slope is: none within 3 standard
errors of 0. There is no momentum that would push into a bound, and no division by a running size,
which makes full steps of pure noise. The standard error is that of noise which is independent from
one update to the next; where it is not, the rule moves further than it should.
"""

import math

import torch
from torch import Tensor

from common.errors import check_finite
from common.schedule_optimizer import rates_of
from scheduler import Schedule

MEMORY = 0.8  # of the running mean of a slope: about five updates
FEWEST = 4  # updates before which nothing is known of the noise
ERRORS = 3.0  # standard errors below which nothing moves


class SteadySteps:
    """Moves q against the running mean of its slope, by what of it is no noise."""

    def __init__(self, schedule: Schedule, lr_beta: list[float], updates: int):
        self.schedule, self.updates = schedule, updates
        self.rates = rates_of(schedule, lr_beta)
        self.count = 0
        self.moments = {name: [0.0, 0.0] for name in schedule.q}  # running mean, mean square

    def step(self, gradient: Tensor) -> None:
        """One update along -gradient, (p,)."""
        check_finite(gradient.abs().sum().item(), "the gradient of the schedule")
        self.count += 1
        for name, g in zip(self.schedule.q, gradient.tolist(), strict=True):
            new = (g, g * g)
            old = self.moments[name]
            self.moments[name] = [
                MEMORY * a + (1 - MEMORY) * b for a, b in zip(old, new, strict=True)
            ]
        # the last half slows down; beyond the last update it stands
        late = min(1.0, max(0.0, 2 * (1 - (self.count - 1) / max(1, self.updates))))
        with torch.no_grad():
            for name, (slope, error) in self.slopes().items():
                sure = sureness(slope, error)
                self.schedule.q[name].sub_(late * self.rates[name] * math.copysign(sure, slope))
        self.schedule.project_()

    def slopes(self) -> dict[str, tuple[float, float]]:
        """parameter -> running mean of its slope, and the standard error of that mean."""
        seen = 1 - MEMORY**self.count
        if not seen:
            return {}
        # independent slopes that the mean is worth: (1 + m)/(1 - m) of them in the long run
        worth = (1 + MEMORY) / (1 - MEMORY) * seen / (1 + MEMORY**self.count)
        found = {}
        for name, (mean, square) in self.moments.items():
            mean, square = mean / seen, square / seen
            variance = max(0.0, square - mean**2) * worth / max(worth - 1, 1e-9)
            found[name] = mean, math.sqrt(variance / worth) if self.count >= FEWEST else math.inf
        return found

    def state_dict(self) -> dict:
        moments = {name: list(pair) for name, pair in self.moments.items()}
        return {"q": self.schedule.state_dict(), "count": self.count, "moments": moments}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.schedule.load_state_dict(state["q"])
        self.count, self.moments = state["count"], dict(state["moments"])


def sureness(slope: float, error: float) -> float:
    """The part of a full step that a slope is worth, in [0, 1): 0 within ERRORS of 0."""
    if not slope or not math.isfinite(error):
        return 0.0
    return max(0.0, 1 - (ERRORS * error / slope) ** 2)


def null_band(
    schedule: Schedule, lr_beta: list[float], updates: int, runs: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Where pure noise would take each parameter: the 5 and 95 % of its end after `updates`."""
    random = torch.Generator().manual_seed(seed)
    ends = []
    for _ in range(runs):
        rule = SteadySteps(Schedule.from_dict(schedule.to_dict(), learned=True), lr_beta, updates)
        for _ in range(updates):
            rule.step(torch.randn(len(rule.rates), generator=random, dtype=torch.float64))
        ends.append(rule.schedule.vector())
    levels = torch.tensor([0.05, 0.95], dtype=torch.float64)
    low, high = torch.stack(ends).quantile(levels, dim=0).tolist()
    return {name: (a, b) for name, a, b in zip(schedule.q, low, high, strict=True)}
