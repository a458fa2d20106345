"""What moves the weights: AdamW, the learning-rate schedules, the averaged network."""

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

LR_SCHEDULES = ("onecycle", "constant", "cosine", "step", "exponential", "plateau")


def make_optimizer(parameters, lr: float) -> torch.optim.AdamW:
    """AdamW in one kernel where the device has it."""
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(parameters, lr=lr, fused=fused)


class LRSchedule:
    """One of LR_SCHEDULES over a known number of steps; only plateau looks at the epoch's loss."""

    def __init__(self, name: str, optimizer, total_steps: int, steps_per_epoch: int):
        self.name, lr = name, optimizer.param_groups[0]["lr"]
        third = max(1, total_steps // 3)
        self.inner = {
            # one step more than the run has: OneCycleLR counts the state before the first step
            "onecycle": lambda: lr_scheduler.OneCycleLR(
                optimizer, max_lr=lr, total_steps=total_steps + 1, pct_start=0.25
            ),
            "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0),
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps),
            "step": lambda: lr_scheduler.StepLR(optimizer, step_size=third, gamma=0.1),
            "exponential": lambda: lr_scheduler.ExponentialLR(
                optimizer, gamma=0.01 ** (1 / total_steps)
            ),
            "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2),
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
    return ema.requires_grad_(False).eval()
