"""What moves the weights: one step, AdamW, the learning-rate schedules, the averaged network."""

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.errors import check_finite
from common.networks import compiled
from model import Diffusion, Levels


class AdamW(torch.optim.AdamW):
    """torch's AdamW without the import of torch's compiler, which takes as long as torch's own.

    torch wraps its optimizers so that the compiler leaves them alone, and the wrappers import it
    to say so.
    """

    step = torch.no_grad()(getattr(torch.optim.AdamW.step, "__wrapped__", torch.optim.AdamW.step))


for name in ("state_dict", "load_state_dict", "zero_grad", "add_param_group"):
    wrapped = getattr(torch.optim.Optimizer, name)
    if inner := getattr(wrapped, "__wrapped__", None):
        inner.__dynamo_disable = inner  # what the wrapper would have the compiler make of it

LR_SCHEDULES = ("onecycle", "constant", "cosine", "step", "exponential", "plateau")


def make_optimizer(parameters, lr: float) -> AdamW:
    """AdamW in one kernel where the device has it."""
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return AdamW(parameters, lr=lr, fused=fused)


def one_cycle(optimizer, highest: float | list[float], steps: int) -> lr_scheduler.OneCycleLR:
    """OneCycle with 25 % warm-up; it counts the state before the first step as a step.

    A run of a few steps does not end its cycle: OneCycleLR divides by zero at 4 steps in all.
    """
    return lr_scheduler.OneCycleLR(
        optimizer, highest, total_steps=max(steps + 1, 8), pct_start=0.25
    )


class LRSchedule:
    """One of LR_SCHEDULES over a known number of steps; only plateau looks at the epoch's loss.

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
        self.inner = {
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


def make_ema(net: nn.Module, args, epochs: int) -> AveragedModel:
    """The averaged network that every sample comes from; batch-norm statistics are averaged too.

    The decay is the published rule: the fewer epochs, the shorter the memory. With the default
    flags it is 0.936 for 100 epochs and 0, a plain copy, for 6 or fewer.
    """
    alpha = (1 - args.model_ema_decay) * args.batch_size * args.model_ema_steps / epochs
    decay = 1 - min(1.0, alpha)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    compiled(ema.module, args.compile)  # a copy is not
    return ema.requires_grad_(False).eval()


def draw(x0: Tensor, timesteps: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform times 1..T and noise for a batch."""
    t = torch.randint(1, timesteps + 1, (len(x0),), generator=random, device=x0.device)
    return t, torch.randn(x0.shape, generator=random, device=x0.device)


def denoising_step(
    process: Diffusion,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x0: Tensor,
    random: torch.Generator,
    where: str,
    amp: bool = False,
    levels: Levels | None = None,
    extra: Tensor | None = None,
) -> float:
    """A step on L(theta, q) at random times with fresh noise; `extra` joins its gradient."""
    net.train()
    t, eps = draw(x0, process.schedule.timesteps, random)
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=amp):
        loss = process.loss(net, x0, t, eps, levels)
    optimizer.zero_grad()
    loss.backward()
    parameters = list(net.parameters())
    if extra is not None:
        pieces = extra.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad += piece.view_as(parameter)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    value, norm = torch.stack([loss.detach(), norm]).tolist()  # one wait for the device
    check_finite(value, "the loss", where)
    check_finite(norm, "the gradient's norm", where)
    optimizer.step()
    return value
