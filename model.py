"""The diffusion: q(x_t given x_0), the loss, DDIM and DDPM sampling.

A Diffusion knows the noise levels, never the network: the same object serves theta_y, theta_z,
their average and an exact denoiser. Data may have any shape (B, ...).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scheduler import Schedule

TINY = 1e-20


class Levels(NamedTuple):
    """x_t = signal_t x_0 + noise_t eps; the network sees scale_t x_t. (T+1,) or so each."""

    signal: Tensor  # sqrt(alpha_bar) b
    noise: Tensor  # sqrt(1 - alpha_bar)
    scale: Tensor  # 1/sqrt((b^2 - 1) alpha_bar + 1), the variance normalisation; 1 when b = 1


class Visits(NamedTuple):
    """What a chain of DDIM steps reads, made before the first of them."""

    times: list[int]  # rising
    net_times: Tensor  # what the network is told, (steps,), or (steps,B) where it differs
    levels: Levels  # at t = 0 and the times, each (steps+1,)


class Diffusion:
    """The process of one noise schedule, and optionally of a second one that only sampling uses.

    The network is told the time t of the training schedule or, where there is a `reference`, the
    time at which this fixed schedule is nearest in noise: then a time keeps its meaning while the
    training schedule moves. With a sampling schedule of its own the network is told what training
    told it at the nearest noise level or, with `told="visited"`, at the same t.
    """

    def __init__(
        self,
        schedule: Schedule,
        input_scale: float = 1.0,
        normalise: bool = True,
        sampling_schedule: Schedule | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        told: str = "nearest",
        reference: Schedule | None = None,
    ):
        self.schedule, self.sampling_schedule = schedule, sampling_schedule or schedule
        self.told, self.reference = told, reference
        self.b, self.normalise = input_scale, normalise
        self.device, self.dtype = device, dtype
        self._fixed, self._midpoints = {}, {}  # of schedules

    def replaced(self, **changes) -> "Diffusion":
        """The same process but for the given arguments of its constructor."""
        other = self.sampling_schedule
        now: dict[str, Any] = {
            "schedule": self.schedule, "input_scale": self.b, "normalise": self.normalise,
            "sampling_schedule": None if other is self.schedule else other, "device": self.device,
            "dtype": self.dtype, "told": self.told, "reference": self.reference,
        }  # fmt: skip
        return Diffusion(**now | changes)

    def levels(self, schedule: Schedule | None = None) -> Levels:
        """The levels of a schedule (default: the training one); computed once if it is fixed."""
        schedule = schedule or self.schedule
        if schedule.learned:
            return self.levels_of(schedule.log_alpha_bar())
        if schedule not in self._fixed:
            self._fixed[schedule] = self.levels_of(schedule.log_alpha_bar())
        return self._fixed[schedule]

    def levels_of(self, log_alpha_bar: Tensor) -> Levels:
        """The levels of any curve (T+1,) of log alpha_bar, differentiable in it."""
        alpha_bar = log_alpha_bar.exp()
        signal = (log_alpha_bar / 2).exp() * self.b
        # the clamp also keeps the derivative of the root finite at t = 0, where alpha_bar = 1
        noise = torch.expm1(log_alpha_bar).neg().clamp(min=TINY).sqrt()
        variance = (self.b**2 - 1) * alpha_bar + 1 if self.normalise else torch.ones_like(signal)
        # first the type, then the device, and so back in a gradient: mps has no float64
        parts = (signal, noise, variance.rsqrt())
        return Levels(*(c.to(self.dtype).to(self.device) for c in parts))

    def loss(
        self, net: Callable, x0: Tensor, t: Tensor, eps: Tensor, levels=None, reduction="mean"
    ) -> Tensor:
        """The squared error of the predicted noise at x_t ~ q(x_t | x_0): the mean, or each."""
        at_t = Levels(*(c[t] for c in levels or self.levels()))
        signal, noise, scale = (_over(c, x0) for c in at_t)
        net_t = t if self.reference is None else self.nearest_time(at_t)
        xt = signal * x0 + noise * eps
        return torch.nn.functional.mse_loss(net(scale * xt, net_t), eps, reduction=reduction)

    def sample(
        self,
        net: Callable,
        x: Tensor,
        steps: int,
        tau_type: str = "linear",
        eta: float = 0.0,
        clip: bool = True,
        fresh: Callable[[Tensor], Tensor] = torch.randn_like,
        levels: Levels | None = None,
        on_step: Callable[[Tensor], None] | None = None,
        constant_above: float = math.inf,
        around: Callable[..., Tensor] | None = None,
        visits: Visits | None = None,
        eps_scale: float = 1.0,
    ) -> Tensor:
        """From noise x to data along `steps` visited times: DDIM (eta 0), or with noise as in DDPM.

        With eta = 1 and steps = T this is ancestral sampling with the posterior's own variance;
        `fresh` draws the noise of one step after the other, of the shape of x.
        `on_step` sees x after every step; `levels` may replace the sampling levels. What the
        network says at times above `constant_above` is a constant to a gradient, and a step f runs
        as around(f, x, i) where `around` is given. `visits` replaces what depends on the steps,
        their spacing and the levels. The predicted noise is multiplied by `eps_scale`.
        """
        visits = visits or self.visits(steps, tau_type, levels, x.device)
        times, net_times, (signal, noise, scale) = visits

        def step(x, i):
            with torch.set_grad_enabled(torch.is_grad_enabled() and times[i - 1] <= constant_above):
                eps = net(scale[i] * x, net_times[i - 1 : i].flatten())  # (1,) or (B,)
                eps = eps if eps_scale == 1 else eps_scale * eps
                x0 = (x - noise[i] * eps) / signal[i]
                if clip:
                    x0 = x0.clamp(-1, 1)
                    eps = (x - signal[i] * x0) / noise[i]  # the noise that this x_0 implies
            if not eta:
                return signal[i - 1] * x0 + noise[i - 1] * eps
            # sigma_i^2 = eta^2 (1 - ab_prev)/(1 - ab) (1 - ab/ab_prev), the posterior variance
            kept = 1 - (signal[i] / signal[i - 1]) ** 2
            sigma = eta * noise[i - 1] / noise[i] * kept.clamp(min=0).sqrt()
            direction = (noise[i - 1] ** 2 - sigma**2).clamp(min=0).sqrt()
            return signal[i - 1] * x0 + direction * eps + sigma * fresh(x)

        for i in range(steps, 0, -1):
            x = around(step, x, i) if around else step(x, i)
            if on_step:
                on_step(x)
        return x / self.b

    def visits(
        self,
        steps: int,
        tau_type: str = "linear",
        levels: Levels | None = None,
        device: str | torch.device = "cpu",
    ) -> Visits:
        """The visited times and the levels there, on the device of the images."""
        times = visited_times(self.sampling_schedule.timesteps, steps, tau_type)
        levels = levels or self.levels(self.sampling_schedule)
        visited = _sent(torch.tensor([0, *times]), levels.signal.device)
        at_times = Levels(*(c[visited] for c in levels))
        net_times = self.network_times(times, Levels(*(c[1:] for c in at_times)))
        return Visits(times, _sent(net_times, device), at_times)

    def network_times(self, times: list[int], levels: Levels) -> Tensor:
        """What to tell the network at each visited time, where the levels are those."""
        apart = self.sampling_schedule is not self.schedule
        as_visited = not apart or self.told == "visited"
        if self.reference is None and as_visited:
            return torch.tensor(times)
        if apart and as_visited:
            levels = Levels(*(c[times] for c in self.levels()))
        return self.nearest_time(levels)

    def nearest_time(self, levels: Levels) -> Tensor:
        """The time known to the network that is nearest in log SNR; no gradient flows through."""
        known = self.reference or self.schedule
        if known.learned or known not in self._midpoints:
            rising = -log_snr(known.log_alpha_bar().detach())[1:]
            middle = (rising[1:] + rising[:-1]) / 2  # (T-1,)
            self._midpoints[known] = middle.to(self.device, self.dtype)
        level = (levels.noise.detach() / levels.signal.detach() * self.b).log() * 2  # -log SNR
        return 1 + torch.bucketize(level, self._midpoints[known])


def _sent(times: Tensor, device: str | torch.device) -> Tensor:
    """Without waiting for CUDA, which takes a copy at once; other copies may read too late."""
    return times.to(device, non_blocking=torch.device(device).type == "cuda")


def fresh_noise(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """What draws noise of the shape of its argument, always more of one stream."""
    return lambda x: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def visited_times(timesteps: int, steps: int, tau_type: str = "linear") -> list[int]:
    """The sampler's times, rising, the last one T: sampling starts where the data is gone."""
    i = range(1, steps + 1)
    if tau_type == "linear":
        return [round(timesteps * k / steps) for k in i]
    return [max(k, round(timesteps * (k / steps) ** 2)) for k in i]


def log_snr(log_alpha_bar: Tensor) -> Tensor:
    """log(alpha_bar/(1 - alpha_bar)), large but finite at t = 0."""
    return log_alpha_bar - torch.expm1(log_alpha_bar).neg().clamp(min=TINY).log()


def _over(c, x):
    return c.view(-1, *[1] * (x.ndim - 1))  # (B,) -> (B,1,1,1)
