"""What moves the weights: one step, AdamW, the learning-rate schedules, the averaged network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.data import Batches
from common.errors import check_finite
from common.graphs import StaticStep, can_record, step_where_finite
from common.light_adamw import AdamW
from common.machine import stream
from common.networks import compiled
from common.noise_levels import NoiseLevels
from common.weights import in_shapes
from model import Diffusion, Levels


def make_optimizer(parameters, lr: float) -> AdamW:
    """AdamW in one kernel."""
    return AdamW(parameters, lr=lr, fused=True)


def one_cycle(optimizer, highest: float | list[float], steps: int) -> lr_scheduler.OneCycleLR:
    """OneCycle with 25 % warm-up; it counts the state before the first step as a step.

    A run of a few steps does not end its cycle: OneCycleLR divides by zero at 4 steps in all.
    """
    return lr_scheduler.OneCycleLR(
        optimizer, highest, total_steps=max(steps + 1, 8), pct_start=0.25
    )


class LRSchedule:
    """One of flags.LR_SCHEDULES over known steps; only plateau looks at the epoch's loss.

    `step_size` (in steps; None: a third of all) and `step_decay` are StepLR's, `exponential_end`
    is the part of the first rate that ExponentialLR ends with, and `plateau_decay` and
    `plateau_patience` (in epochs) are ReduceLROnPlateau's.
    """

    def __init__(
        self,
        name: str,
        optimizer,
        total_steps: int,
        step_size: int | None = None,
        step_decay: float = 0.1,
        exponential_end: float = 0.01,
        plateau_decay: float = 0.5,
        plateau_patience: int = 2,
    ):
        self.name, lr = name, optimizer.param_groups[0]["lr"]
        step_size = step_size or max(1, total_steps // 3)
        self.inner: Any = {  # of two kinds, with different steps
            "onecycle": lambda: one_cycle(optimizer, lr, total_steps),
            "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0),
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps),
            "step": lambda: lr_scheduler.StepLR(optimizer, step_size, step_decay),
            "exponential": lambda: lr_scheduler.ExponentialLR(
                optimizer, gamma=exponential_end ** (1 / total_steps)
            ),
            "plateau": lambda: lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=plateau_decay, patience=plateau_patience
            ),
        }[name]()

    def after_step(self) -> None:
        if self.name != "plateau":
            self.inner.step()

    def after_epoch(self, mean_loss: float) -> None:
        if self.name == "plateau":
            self.inner.step(mean_loss)

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)


def scale_rates(optimizer, lr_schedule: LRSchedule | None, factor: float) -> None:
    """Go on at the same place of the schedule with all of its rates multiplied."""
    for group in optimizer.param_groups:
        for name in {"lr", "initial_lr", "max_lr", "min_lr"} & set(group):
            group[name] *= factor
    if lr_schedule and hasattr(lr_schedule.inner, "base_lrs"):
        lr_schedule.inner.base_lrs = [rate * factor for rate in lr_schedule.inner.base_lrs]


class EmaRule(NamedTuple):
    """How the network is averaged: the decay of an update, and the steps between two of them."""

    decay: float
    every: int

    @property
    def memory(self) -> float:
        """The steps that the average looks back over, or the time between two copies."""
        return self.every / max(1 - self.decay, 1e-12)  # a decay of 1 never takes a copy

    @classmethod
    def from_flags(
        cls, *, model_ema_decay, model_ema_steps, batch_size, epochs, ema_memory=None,
        recipe=None, inner_loop=1, **_,
    ) -> "EmaRule":  # fmt: skip
        """The published rule: the fewer epochs, the shorter the memory; or the memory asked for.

        With the default flags the decay is 0.936 for 100 epochs and 0, a plain copy, for 6 or
        fewer. The published bilevel script has another rule, and updates every few iterations.
        """
        if ema_memory:
            return cls(max(0.0, 1 - model_ema_steps / ema_memory), model_ema_steps)
        part = (1 - model_ema_decay) * batch_size * model_ema_steps / epochs
        if recipe == "paper":
            return cls(1 - min(1.0, 0.5 * part / inner_loop), model_ema_steps * inner_loop)
        return cls(1 - min(1.0, part), model_ema_steps)


class Average:
    """The averaged network that every sample comes from, updated every few steps and at the last.

    Batch-norm statistics are averaged too.
    """

    def __init__(
        self, net: nn.Module, decay: float, every: int, total_steps: int, compile_mode: str = "off"
    ):
        self.every, self.total_steps = every, total_steps
        self.model = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        compiled(self.model.module, compile_mode)  # the copy of a compiled network is not compiled
        self.model.requires_grad_(False).eval()

    def after_step(self, net: nn.Module, step: int) -> None:
        if step % self.every == 0 or step == self.total_steps:
            self.model.update_parameters(net)

    def state_dict(self) -> dict:
        return self.model.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state)


class Learner:
    """A network that follows the denoising loss: its optimizer, its random draws, its step count.

    Step k of a learner sees batch k of the shuffled epochs and the random stream of its own `name`:
    a pure function of (seed, name, k), so that a resumed learner repeats what it would have done.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        seed: int,
        name: str = "step",
        lr_schedule: "LRSchedule | None" = None,
        amp: bool = False,
        graphs: bool = False,
        noise_levels: NoiseLevels | None = None,
    ):
        self.net, self.optimizer, self.batches = net, optimizer, batches
        self.seed, self.name, self.lr_schedule, self.amp = seed, name, lr_schedule, amp
        self.noise_levels = noise_levels  # None: uniform times, all errors count the same
        self.count = 0  # steps taken
        self.lr = optimizer.param_groups[0]["lr"]  # of the last step
        self.peak = optimizer.defaults["lr"]
        recorded = graphs and can_record(next(net.parameters()).device)
        self.static = StaticStep(gradients) if recorded else None

    def step(
        self, process: Diffusion, levels: Levels | None = None, extra: Tensor | None = None
    ) -> float:
        """One step on L(theta, q); `extra` joins its gradient. Returns the loss."""
        x0, random = self.drawn(self.count)
        self.lr = self.optimizer.param_groups[0]["lr"]
        loss = denoising_step(
            process, self.net, self.optimizer, x0, random, self.amp, levels, extra, self.static,
            self.noise_levels,
        )  # fmt: skip
        if self.lr_schedule:
            self.lr_schedule.after_step()
        self.count += 1
        return loss

    def loss(self, process: Diffusion, levels: Levels, count: int, net: Callable) -> Tensor:
        """L of another network, on the batch, times and noise of a step; nothing is moved."""
        x0, random = self.drawn(count)
        t, eps = draw(x0, process.schedule.timesteps, random, self.noise_levels)
        return process.loss(net, x0, t, eps, levels)

    def drawn(self, count: int) -> tuple[Tensor, torch.Generator]:
        """The batch of a step, and the stream of its times and noise."""
        x0 = self.batches(*divmod(count, self.batches.steps))
        return x0, stream(x0.device, self.seed, self.name, count)

    @property
    def images(self) -> int:
        """Images of a step."""
        return self.batches.batch_size

    def state_dict(self) -> dict:
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.lr_schedule:
            state["lr_schedule"] = self.lr_schedule.state_dict()
        if self.noise_levels:
            state["noise_levels"] = self.noise_levels.state_dict()
        return {**state, "count": self.count, "peak": self.peak}

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])  # in place: the optimizer holds these parameters
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_schedule:
            self.lr_schedule.load_state_dict(state["lr_schedule"])
        if self.noise_levels:
            self.noise_levels.load_state_dict(state["noise_levels"])
        peak = state.get("peak", self.peak)
        if peak != self.peak:  # --resume with another --lr
            scale_rates(self.optimizer, self.lr_schedule, self.peak / peak)
        self.count = state["count"]


def draw(
    x0: Tensor, timesteps: int, random: torch.Generator, noise_levels: NoiseLevels | None = None
) -> tuple[Tensor, Tensor]:
    """Times 1..T, uniform unless told otherwise, and noise for a batch."""
    if noise_levels:
        t = noise_levels.draw(len(x0), random)
    else:
        t = torch.randint(1, timesteps + 1, (len(x0),), generator=random, device=x0.device)
    return t, torch.randn(x0.shape, generator=random, device=x0.device)


def denoising_step(
    process: Diffusion,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x0: Tensor,
    random: torch.Generator,
    amp: bool = False,
    levels: Levels | None = None,
    extra: Tensor | None = None,
    static: StaticStep | None = None,
    noise_levels: NoiseLevels | None = None,
) -> float:
    """A step on L(theta, q) at random times with fresh noise; `extra` joins its gradient."""
    net.train()
    t, eps = draw(x0, process.schedule.timesteps, random, noise_levels)
    weights = noise_levels.weights[t] if noise_levels else None  # (B,)
    numbers = (static or gradients)(process, net, x0, t, eps, amp, levels, extra, weights)
    if static:
        step_where_finite(optimizer, numbers)  # queued: the device is still at the gradients
    value, norm = numbers[:2].tolist()  # one wait for the device
    check_finite(value, "the loss")
    check_finite(norm, "the gradient's norm")
    if noise_levels:
        noise_levels.observe(t, numbers[2:])
    if not static:
        optimizer.step()
    return value


def gradients(
    process: Diffusion,
    net: nn.Module,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    amp: bool,
    levels: Levels | None,
    extra: Tensor | None,
    weights: Tensor | None = None,
) -> Tensor:
    """Leave the gradients of the loss plus `extra` in the weights of the network.

    Returns the loss and the norm and, where there are weights (B,) of the images, their errors.
    """
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=amp):
        if weights is None:
            loss, errors = process.loss(net, x0, t, eps, levels), None
        else:
            errors = process.loss(net, x0, t, eps, levels, "none").flatten(1).mean(1)  # (B,)
            loss = (weights * errors).mean()
    parameters = list(net.parameters())
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    if extra is not None:
        torch._foreach_add_(_gradients(parameters), in_shapes(extra, parameters))
    # one launch for all of them, where the device has it
    norm = torch.stack(torch._foreach_norm(_gradients(parameters))).norm()
    numbers = torch.stack([loss.detach(), norm])
    return numbers if errors is None else torch.cat([numbers, errors.detach()])


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
