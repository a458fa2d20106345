"""Runs of one data set that differ in their learning rate alone, trained together."""

import time

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.machine import stream
from common.training import LRSchedule, draw, make_optimizer, scale_rates
from model import Diffusion
from studies.lr_schedules.recipes import Recipe
from studies.lr_schedules.stack import Net, Stack, clip_rows_

TIMESTEPS = 100
MAX_NORM = 0.5
EMA_DECAY, EMA_STEPS = 0.995, 10


def first_net(seed: int) -> Net:
    """The weights that every run of a seed starts from."""
    torch.manual_seed(seed)
    return Net()


def batch(data: dict[str, Tensor], size: int, seed: int, step: int):
    """Points of each set, times and noise of a step: all runs share the draws."""
    first = next(iter(data.values()))
    random = stream(first.device, seed, "step", step)
    index = torch.randint(len(first), (size,), generator=random, device=first.device)
    t, eps = draw(first[index], TIMESTEPS, random)
    return {name: x[index] for name, x in data.items()}, t, eps


class Together:
    """R runs with the same first weights, batches, times and noise: a row of a Stack each."""

    def __init__(self, recipes: list[Recipe], lr: float, steps: int, epoch_steps: int, net: Net):
        self.steps = steps
        self.epoch_steps = epoch_steps  # plateau looks at the mean loss of so many
        self.stack = Stack([net] * len(recipes))
        average = get_ema_multi_avg_fn(EMA_DECAY)
        self.ema = AveragedModel(self.stack, multi_avg_fn=average).requires_grad_(False)
        # views: an optimizer moves its row of the matrix in place
        self.rows = [nn.Parameter(row) for row in self.stack.weights.data]
        self.optimizers = [make_optimizer([row], lr) for row in self.rows]
        self.lr_schedules = [
            LRSchedule(recipe.lr_schedule, optimizer, steps, **recipe.options)
            for recipe, optimizer in zip(recipes, self.optimizers, strict=True)
        ]
        self.done = 0
        self.epoch_loss = self.stack.weights.new_zeros(len(recipes))
        self.lr_sum = [0.0] * len(recipes)
        self.seconds, self.lr_schedule_seconds = 0.0, [0.0] * len(recipes)

    def step(self, process: Diffusion, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every run on (B,2); returns the losses and the gradients' norms, (R,)."""
        start = time.perf_counter()
        eps = eps[:, None].expand(-1, len(self.rows), -1)

        def stack(xt, t):
            return self.stack(xt[:, 0], t)  # the same points for every run

        losses = process.loss(stack, x0[:, None], t, eps, reduction="none").mean(dim=(0, 2))
        # of the sum, so that each row is its own run's gradient
        (gradient,) = torch.autograd.grad(losses.sum(), self.stack.weights)
        losses, norms = losses.detach(), clip_rows_(gradient, MAX_NORM)
        if norms.isfinite().all() and losses.isfinite().all():  # else the caller ends the run
            self._update(gradient, losses)
        self.seconds += time.perf_counter() - start
        return losses, norms

    def _update(self, gradient, losses):
        self.done += 1
        self.epoch_loss += losses
        for i, (row, optimizer) in enumerate(zip(self.rows, self.optimizers, strict=True)):
            self.lr_sum[i] += optimizer.param_groups[0]["lr"]
            row.grad = gradient[i]
            optimizer.step()
        if self.done % EMA_STEPS == 0 or self.done == self.steps:
            self.ema.update_parameters(self.stack)
        means = (self.epoch_loss / self.epoch_steps).tolist()
        for i, lr_schedule in enumerate(self.lr_schedules):
            start = time.perf_counter()
            lr_schedule.after_step()
            if self.done % self.epoch_steps == 0:
                lr_schedule.after_epoch(means[i])
            self.lr_schedule_seconds[i] += time.perf_counter() - start
        if self.done % self.epoch_steps == 0:
            self.epoch_loss.zero_()

    def lrs(self) -> list[float]:
        return [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

    def scale_lr(self, factor: float) -> None:
        """Go on with another learning rate than the one that a checkpoint has."""
        for optimizer, lr_schedule in zip(self.optimizers, self.lr_schedules, strict=True):
            scale_rates(optimizer, lr_schedule, factor)

    def shared_seconds(self) -> float:
        """A run's equal part of the time, apart from what its own learning-rate schedule took."""
        return (self.seconds - sum(self.lr_schedule_seconds)) / len(self.rows)

    def net(self, i: int) -> Net:
        """The averaged network of a run."""
        row = self.ema.module.weights[i]
        net = Net().to(row.device, row.dtype).requires_grad_(False)
        vector_to_parameters(row, net.parameters())
        return net

    def state_dict(self) -> dict:
        return {
            "stack": self.stack.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "lr_schedules": [lr_schedule.state_dict() for lr_schedule in self.lr_schedules],
            "done": self.done,
            "epoch_loss": self.epoch_loss,
            "lr_sum": self.lr_sum,
            "clock": [self.seconds, *self.lr_schedule_seconds],
        }

    def load_state_dict(self, state: dict) -> None:
        self.stack.load_state_dict(state["stack"])  # in place: the rows see it
        self.ema.load_state_dict(state["ema"])
        for name in ("optimizers", "lr_schedules"):
            for part, saved in zip(getattr(self, name), state[name], strict=True):
                part.load_state_dict(saved)
        self.done = state["done"]
        self.epoch_loss.copy_(state["epoch_loss"])  # which may lie on a GPU
        self.lr_sum = list(state["lr_sum"])
        self.seconds, *self.lr_schedule_seconds = state["clock"]
