"""The step of the schedule's parameters q: AdamW, OneCycle, projection onto the bounds."""

import torch
from torch import Tensor

from common.errors import check_finite
from common.families import NAMES
from common.light_adamw import AdamW
from common.training import one_cycle
from scheduler import Schedule

MEMORY = 0.9  # of the running mean of each gradient: about ten updates


class ScheduleOptimizer:
    """Moves q, one learning rate a parameter, and follows how noisy its gradients are.

    Weight decay, which only the published method has, pulls the parameters towards 0.
    """

    def __init__(
        self, schedule: Schedule, lr_beta: list[float], updates: int, weight_decay: float = 0.0
    ):
        self.schedule, self.updates = schedule, updates
        self.rates = rates = rates_of(schedule, lr_beta)
        groups = [{"params": [p], "lr": rates[name]} for name, p in schedule.q.items()]
        self.optimizer = AdamW(groups, weight_decay=weight_decay)
        self.cycle = one_cycle(self.optimizer, [rates[name] for name in schedule.q], updates)
        self.count = 0  # updates made
        self.moments = {}  # parameter -> running mean and mean square of its gradient

    def step(self, gradient: Tensor) -> None:
        """One update along -gradient, (p,)."""
        slopes = gradient.tolist()  # one wait for the device
        check_finite(sum(map(abs, slopes)), "the gradient of the schedule")
        self.schedule.set_gradient_(gradient)
        self.optimizer.step()
        self.cycle.step()
        self.schedule.project_(held_of(self.rates))
        self.follow(slopes)
        self.count += 1

    def follow(self, slopes: list[float], memory: float = MEMORY) -> None:
        """Update the moments: what is between mean and mean square is noise."""
        for name, g in zip(self.schedule.q, slopes, strict=True):
            mean, square = self.moments.get(name, (g, g * g))
            pairs = (mean, g), (square, g * g)
            self.moments[name] = [memory * old + (1 - memory) * new for old, new in pairs]

    def slopes(self) -> dict[str, tuple[float, float]]:
        """parameter -> running mean of its gradient, and the standard deviation around it."""
        return {
            name: (mean, max(0.0, square - mean**2) ** 0.5)
            for name, (mean, square) in self.moments.items()
        }

    def state_dict(self) -> dict:
        return {
            "q": self.schedule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "cycle": self.cycle.state_dict(),
            "count": self.count,
            "moments": dict(self.moments),
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.schedule.load_state_dict(state["q"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.cycle.load_state_dict(state["cycle"])
        self.count, self.moments = state["count"], dict(state["moments"])


def held_of(rates: dict[str, float]) -> frozenset[str]:
    """The parameters that a rate of 0 holds fixed."""
    return frozenset(name for name, rate in rates.items() if not rate)


def rates_of(schedule: Schedule, lr_beta: list[float]) -> dict[str, float]:
    """The rate of each parameter: the knots share the third one, which no other of theirs takes."""
    rates = dict(zip(NAMES, lr_beta, strict=True))
    return {name: rates.get(name, rates["tau"]) for name in schedule.q}
