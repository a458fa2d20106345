"""Noise schedules: the formulas, and the one object that fixed and learned schedules share.

Time is u = t/T in [0, 1]. A family gives a falling f(u); alpha_bar(t) = f(u_t)/f(u_0) and
beta_t = 1 - alpha_bar_t/alpha_bar_{t-1}, at most 0.999. Everything is computed as log f in float64:
a ratio of two vanishing numbers becomes a difference of two finite ones, so there is no 0/0.
Parameters, defaults and bounds stand in families.py.
"""

import json
import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from common.families import MIN_GAP, RISES, box_of, complete, project, read_schedule, to_bounds

MAX_BETA = 0.999
FLOOR = 1e-9  # f is cut off below: sigmoid and linear reach 0 at the end of time
TINY = 1e-300


def log_alpha_bar(family: str, timesteps: int, q: Mapping[str, Tensor]) -> Tensor:
    """log alpha_bar(t) for t = 0..T, shape (T+1,), differentiable in the parameters q."""
    if family in ("ddpm", "ddpm_unscaled"):
        # Ho et al. stated their betas for T = 1000; unscaled, a short process ends far from noise
        scale = 1000 / timesteps if family == "ddpm" else 1.0
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
        log_step = torch.log1p(-beta.clamp(max=MAX_BETA))
    else:
        device = q["start"].device
        u = torch.arange(timesteps + 1, dtype=torch.float64, device=device) / timesteps
        log_f = LOG_F[family](u, q)
        log_step = (log_f[1:] - log_f[:-1]).clamp(min=math.log(1 - MAX_BETA), max=0.0)
    return torch.cat([log_step.new_zeros(1), log_step.cumsum(0)])


def _between(u, q):
    return q["start"] * (1 - u) + q["end"] * u


def _log_f_cosine(u, q):
    # cos((v + epsilon)/(1 + epsilon) pi/2) as the sine of the complement: exactly 0 at v = 1
    cosine = torch.sin((1 - _between(u, q)) / (1 + q["epsilon"]) * (math.pi / 2))
    return 2 * q["tau"] * cosine.clamp(min=TINY).log()


def _log_f_sigmoid(u, q):
    # s(b) - s(x) = s(b) s(-x) (1 - exp(x - b)): nothing cancels, however far out x and b lie
    def log_difference(x):
        return nn.functional.logsigmoid(-x) + torch.expm1(x - b).neg().clamp(min=TINY).log()

    a, b, x = (edge / q["tau"] + q["epsilon"] for edge in (q["start"], q["end"], _between(u, q)))
    return (log_difference(x) - log_difference(a)).clamp(min=math.log(FLOOR))


def _log_f_linear(u, q):
    return (1 - _between(u, q)).clamp(min=FLOOR).log()


def _log_f_knots(u, q):
    # -log SNR rises from start to end, linear between knots that are even in time: alpha_bar is
    # the logistic function of log SNR, but 1 at t = 0
    rises = torch.stack([q[name] for name in q if name.startswith("knot_")])
    shares = nn.functional.pad(rises.cumsum(0) / rises.sum(), (1, 0))  # (K+1,), from 0 to 1
    segment = (u * len(rises)).long().clamp(max=len(rises) - 1)
    share = torch.lerp(shares[segment], shares[segment + 1], u * len(rises) - segment)
    log_f = nn.functional.logsigmoid(-_between(share, q))
    return torch.cat([torch.zeros_like(log_f[:1]), log_f[1:]])


LOG_F = {
    "cosine": _log_f_cosine,
    "sigmoid": _log_f_sigmoid,
    "linear": _log_f_linear,
    "knots": _log_f_knots,
}


def projected(family: str, names: list[str], points: Tensor, held: Collection[str] = ()) -> Tensor:
    """Points (k,p) moved to the nearest inside the bounds, each as families.project moves one."""
    low, high = _box(family, tuple(names), points.device, points.dtype)
    inside = points.clamp(low, high)
    if "start" not in names:
        return inside
    i, j = names.index("start"), names.index("end")
    middle = (points[:, i] + points[:, j]) / 2
    middle = middle.clamp(low[i] + MIN_GAP / 2, high[i] - MIN_GAP / 2)
    gap = MIN_GAP * (1 + 1e-6)  # rounding may leave it an ulp short
    start = (middle - gap / 2).clamp(min=low[i])
    if "end" in held:
        start = (inside[:, j] - gap).clamp(min=low[i])
    if "start" in held:
        start = inside[:, i]
    end = inside[:, j] if "end" in held else (start + gap).clamp(max=high[i])
    close = ~(inside[:, j] - inside[:, i] >= MIN_GAP)
    inside[:, i] = torch.where(close, start, inside[:, i])
    inside[:, j] = torch.where(close, end, inside[:, j])
    return inside


@lru_cache
def _box(family, names, device, dtype):  # kept: each of the two is a copy to a card
    return [torch.tensor(bound, device=device, dtype=dtype) for bound in box_of(family, names)]


class Schedule(nn.Module):
    """A noise schedule over t = 0..T. A learned one shows its parameters to an optimizer."""

    def __init__(self, family: str, timesteps: int, learned: bool = False, **parameters):
        super().__init__()
        self.family, self.timesteps = family, timesteps
        for name, value in complete(family, parameters).items():
            start = torch.tensor(value, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(start, requires_grad=learned))

    @property
    def q(self) -> dict[str, nn.Parameter]:
        """The parameters by name, live."""
        return dict(self.named_parameters())

    @property
    def learned(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def vector(self) -> Tensor:
        """The parameters as one vector, (p,): a copy that no gradient flows through."""
        numbers = [parameter.detach() for parameter in self.parameters()]
        return torch.stack(numbers) if numbers else torch.empty(0, dtype=torch.float64)

    def values(self) -> dict[str, float]:
        """The parameters as plain numbers."""
        return dict(zip(self.q, self.vector().tolist(), strict=True))  # one wait for the device

    def set_gradient_(self, gradient: Tensor) -> None:
        """Hand the optimizer of the parameters their gradient, (p,)."""
        for parameter, slope in zip(self.parameters(), gradient, strict=True):
            parameter.grad = slope.clone()

    def curve(self, q: Tensor) -> Tensor:
        """log alpha_bar (T+1,) with the vector q (p,) in place of the parameters."""
        return log_alpha_bar(self.family, self.timesteps, dict(zip(self.q, q, strict=True)))

    def log_alpha_bar(self) -> Tensor:  # (T+1,)
        return log_alpha_bar(self.family, self.timesteps, self.q)

    def alpha_bar(self) -> Tensor:  # (T+1,)
        return self.log_alpha_bar().exp()

    def betas(self) -> Tensor:
        """beta_1..beta_T, (T,): what diffusers takes as `trained_betas`."""
        return -torch.expm1(self.log_alpha_bar().diff())

    @torch.no_grad()
    def project_(self, held: Collection[str] = ()) -> "Schedule":
        """Move the parameters to the nearest point inside their bounds, in place.

        Those that are `held` lie inside, and the others give way.
        """
        inside = project(self.family, self.values(), held)
        for name, parameter in self.q.items():
            parameter.fill_(inside[name])
        return self

    def to_bounds(self) -> dict[str, float]:
        """Each parameter's distance to its nearest bound; start and end also bound each other."""
        return to_bounds(self.family, self.values())

    def as_knots(self, count: int, learned: bool = False) -> "Schedule":
        """Knots that follow this schedule: log SNR is its own at the times nearest to them."""
        log_ab = self.log_alpha_bar().detach()
        t = [max(1, round(k * self.timesteps / count)) for k in range(count + 1)]  # t = 0 is clean
        level = (torch.expm1(log_ab[t]).neg().log() - log_ab[t]).clamp(-20, 20)  # -log SNR
        rises = level.diff() / level.diff().mean()
        values = {f"knot_{k}": r for k, r in enumerate(rises.clamp(*RISES).tolist(), 1)}
        ends = {"start": level[0].item(), "end": level[-1].item()}
        return Schedule("knots", self.timesteps, learned, **ends, **values)

    def to_dict(self) -> dict:
        return {"family": self.family, "timesteps": self.timesteps, **self.values()}

    @classmethod
    def from_dict(cls, content: dict, learned: bool = False) -> "Schedule":
        """From the content of a schedule.json, whose `told` is for a sampler alone."""
        return cls(**{name: v for name, v in content.items() if name != "told"}, learned=learned)

    def save(self, path: str | Path) -> None:
        """Write the schedule as JSON; `Schedule.load` and --schedule_from read it."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path, learned: bool = False) -> "Schedule":
        """Read a schedule.json; ValueError names the file and what is wrong with it."""
        family, timesteps, values = read_schedule(str(path))
        return cls(family, timesteps, learned, **values)
