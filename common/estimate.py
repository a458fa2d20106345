"""How long a plan would take on this machine: a few timed steps, before any run."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.data import to_unit
from common.fast_layers import frozen
from common.machine import stream
from common.networks import make_network
from common.tables import counted
from common.training import denoising_step, make_optimizer
from model import Diffusion
from scheduler import Schedule
from unet import UNet

# float32 operations a second: a third of the peak without TF32, which no run has confirmed
H100_ASSUMED = 67e12 / 3
LARGEST = 128 * 28 * 28 * 64  # pixels times channels of a timed batch: the published one
STEPS = 2  # timed, after one that allocates


class Rates(NamedTuple):
    """Seconds an image: forward and backward in a training step, forward in sampling."""

    training: float
    sampling: float

    def seconds(self, cost: dict[str, int]) -> float:
        """Of a plan's images through the network; what is not training is sampling."""
        training = cost.get("training", 0)
        return self.training * training + self.sampling * (sum(cost.values()) - training)

    @property
    def passes(self) -> float:
        """Forward passes a second in training, where a backward pass counts as two."""
        return 3 / self.training


def measure(
    images: Tensor, base: int, timesteps: int, batch_size: int, device: torch.device, amp: bool
) -> Rates:
    """Time a training step and a step of sampling, in batches that fit any machine."""
    side = images.shape[-1]
    count = max(2, min(batch_size, LARGEST // (base * side * side)))
    x0 = to_unit(images[:1].to(device)).expand(count, -1, -1, -1).contiguous()
    net = make_network(base, timesteps, device)
    process = Diffusion(Schedule("cosine", timesteps), device=device)
    optimizer = make_optimizer(net.parameters(), 1e-9)

    def train(step: int) -> None:
        denoising_step(process, net, optimizer, x0, stream(device, 0, step), amp)

    def sample(_: int) -> None:
        net.eval()
        with (
            torch.inference_mode(),
            frozen(net),
            torch.autocast(device.type, torch.bfloat16, enabled=amp),
        ):
            net(x0, torch.ones(1, dtype=torch.long, device=device)).sum().item()

    return Rates(*(seconds_of(work) / count for work in (train, sample)))


def operations_of_pass(images: Tensor, base: int, timesteps: int) -> float:
    """Floating-point operations of a forward pass, counted without computing one."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = UNet(base, timesteps=timesteps)
        net(torch.zeros(1, 1, *images.shape[-2:]), torch.ones(1, dtype=torch.long))
    return counter.get_total_flops()


def seconds_of(work: Callable[[int], None]) -> float:
    """The shorter of two calls, after one that allocates."""
    times = []
    for step in range(1 + STEPS):
        began = time.perf_counter()
        work(step)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def duration(seconds: float) -> str:
    """A length of time as a person says it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def text(cost: dict[str, int], rates: Rates, device: torch.device) -> str:
    """The line that ends a plan."""
    threads = torch.get_num_threads()
    place = counted(threads, "CPU thread") if device.type == "cpu" else device
    return f"about {duration(rates.seconds(cost))} on {place}, by a few steps timed now"
