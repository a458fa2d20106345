"""Where noise alone takes the schedule: the band beside which a learned path is to be read.

The rule that moved the schedule is given random numbers in place of its gradients, many times from
the same first schedule; noise that is correlated from one update to the next, as the steady rule
finds it to be, is drawn so. For a parameter that ends inside the 5 to 95 % of those ends, noise is
explanation enough.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from common.schedule_optimizer import ScheduleOptimizer, held_of
from common.step_rule import SteadySteps, null_paths
from scheduler import Schedule, projected

QUANTILES = (0.05, 0.95)
POINTS = 200  # of a band, at most: updates between which it is linear
Band = dict[str, list[float]]


def null_band(
    rule: ScheduleOptimizer | SteadySteps,
    first: Schedule,
    lr_beta: list[float],
    runs: int = 200,
) -> Band:
    """`updates` and, of each parameter that moves, NAME_low and NAME_high after so many of them.

    The rule slows down towards the updates that it is set for, and may have made fewer.
    """
    moving = [name for name, rate in rule.rates.items() if rate > 0]
    updates, made = rule.updates, rule.count
    if not (made and moving):
        return {}
    kept = np.unique(np.linspace(0, made, POINTS + 1).round().astype(int))
    random = torch.Generator().manual_seed(0)
    if isinstance(rule, SteadySteps):
        r = rule.moments.correlation().item()
        paths = null_paths(first, lr_beta, updates, r, runs, random)
    else:
        decay = rule.optimizer.param_groups[0]["weight_decay"]
        paths = _adaptive_paths(first, lr_beta, updates, runs, random, decay)
    paths = paths[kept]  # (k,runs,p)
    limits = torch.tensor(QUANTILES, dtype=torch.float64)
    low, high = paths.quantile(limits, dim=1)  # (k,p)
    band: Band = {"updates": kept.tolist()}
    if isinstance(rule, SteadySteps):
        band["correlation"] = [r]
    for i, name in enumerate(rule.rates):
        if name in moving:
            band |= {f"{name}_low": low[:, i].tolist(), f"{name}_high": high[:, i].tolist()}
    return band


def _adaptive_paths(first, lr_beta, updates, runs, random, decay) -> Tensor:
    """Of AdamW, all runs at once: (updates+1,runs,p)."""
    copies = Copies(first, runs)
    rule = ScheduleOptimizer(copies, lr_beta, updates, decay)  # type: ignore[arg-type]
    paths = [copies.values()]
    for _ in range(updates):
        for parameter in copies.q.values():
            parameter.grad = torch.randn(runs, generator=random, dtype=torch.float64)
        rule.optimizer.step()
        rule.cycle.step()
        copies.project_(held_of(rule.rates))
        paths.append(copies.values())
    return torch.stack(paths)


class Copies:
    """The parameters of many copies of a schedule, a vector each, for an optimizer to move."""

    def __init__(self, first: Schedule, runs: int):
        self.family = first.family
        values = first.values()
        self.q = {
            name: nn.Parameter(torch.full((runs,), value, dtype=torch.float64))
            for name, value in values.items()
        }

    def values(self) -> Tensor:
        """(runs,p), a copy."""
        return torch.stack([parameter.detach() for parameter in self.q.values()], 1)

    @torch.no_grad()
    def project_(self, held: Collection[str] = ()) -> None:
        """What Schedule.project_ does, for each copy."""
        inside = projected(self.family, list(self.q), self.values(), held)
        for parameter, column in zip(self.q.values(), inside.T, strict=True):
            parameter.copy_(column)


def null_text(schedule: Schedule, first: dict[str, float], band: Band) -> str:
    """The learned schedule beside what noise alone would have made of the `first` values."""
    parts = []
    for name, value in schedule.values().items():
        inside = " (held)" if band else ""
        if f"{name}_low" in band:
            low, high = (band[f"{name}_{side}"][-1] for side in ("low", "high"))
            inside = f" (noise alone: {low:.4g} to {high:.4g})"
        parts.append(f"{name} {value:.4g}{inside}")
    if "correlation" in band:
        parts.append(
            f"correlation of the noise from one update to the next {band['correlation'][0]:.2f}"
        )
    moved = schedule.values() != first
    return f"{'learned' if moved else 'the schedule did not move'}: {', '.join(parts)}"


def within(schedule: Schedule, band: Band) -> list[str]:
    """The parameters that noise alone would have taken as far."""
    ends = {name: (band.get(f"{name}_low"), band.get(f"{name}_high")) for name in schedule.q}
    values = schedule.values()
    return [
        n for n, (low, high) in ends.items() if low and high and low[-1] <= values[n] <= high[-1]
    ]
