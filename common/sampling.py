"""Sampling: the settings of a run, chunks of many images, the process of a checkpoint."""

import argparse
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.families import FAMILIES
from common.fast_layers import frozen
from common.fast_unet import UNet
from common.machine import progress_bar, stream
from common.networks import load_network
from common.run import Run
from model import Diffusion
from scheduler import Schedule

EVAL_SEED = 0  # every run is judged on images from the same noise
CHUNK = 500  # images sampled at once when many are wanted


class Sampler:
    """The sampler's settings of one run: steps, spacing, clipping, precision."""

    def __init__(self, diffusion: Diffusion, args, shape, device):
        self.diffusion, self.device, self.shape = diffusion, device, tuple(shape)
        self.steps = args.timesteps if args.sampler == "ddpm" else args.backward_steps
        self.eta = 1.0 if args.sampler == "ddpm" else 0.0
        self.tau_type, self.clip, self.amp = args.tau_type, not args.no_clip, args.amp

    def noise(self, n: int, seed: int, *names) -> Tensor:
        """The starting noise of one purpose, (n, C, H, W)."""
        generator = stream(self.device, seed, *names)
        return torch.randn(n, *self.shape, generator=generator, device=self.device)

    def __call__(self, net: nn.Module, x: Tensor, seed: int = EVAL_SEED, **options) -> Tensor:
        """Images in [-1, 1] from starting noise x; `seed` is for DDPM's own noise."""
        generator = stream(self.device, seed, "ddpm") if self.eta else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp), frozen(net):
            return self.diffusion.sample(
                net, x, self.steps, self.tau_type, self.eta, self.clip, generator, **options
            )

    def many(
        self, net: nn.Module, n: int, purpose: str, run: Run | None = None
    ) -> Iterator[Tensor]:
        """n images in chunks, with a progress bar; a run may be interrupted in between."""

        def on_step(_):
            bar.update(1)
            if run:
                run.poll()

        chunks = math.ceil(n / CHUNK)
        with progress_bar(total=chunks * self.steps, desc=f"{n} images", unit="step") as bar:
            for i in range(chunks):
                x = self.noise(min(CHUNK, n - i * CHUNK), EVAL_SEED, purpose, i)
                with torch.inference_mode():  # not around the yield: it would leak to the caller
                    x = self(net, x, EVAL_SEED + i, on_step=on_step)
                yield x

    def film(self, net: nn.Module, n: int, frames: int = 24) -> list[Tensor]:
        """The way of n images from noise to data: evenly spaced steps, the end last."""
        seen = [self.noise(n, EVAL_SEED, "picture", 0)]
        with torch.inference_mode():
            self(net, seen[0], on_step=lambda x: seen.append(x.float()))
        return seen[:: -max(1, self.steps // frames)][::-1]


def fixed_schedules(args) -> tuple[Schedule, Schedule | None]:
    """The training schedule of the flags, and the sampling one if it is another."""
    values = {name: getattr(args, name) for name in FAMILIES[args.scheduler_type]}
    schedule = Schedule(args.scheduler_type, args.timesteps, **values)
    other = args.sampling_schedule
    return schedule, other and sampling_schedule(other, args.timesteps)


def process_of(state: dict, device) -> Diffusion:
    """The diffusion that a checkpoint was trained with, its schedule as it was then."""
    args, other = state["args"], state["args"].get("sampling_schedule")
    schedule = Schedule.from_dict(state["schedule"])
    other = other and sampling_schedule(other, schedule.timesteps)
    return Diffusion(schedule, args["input_scale"], not args["no_normalise"], other, device)


def sampling_schedule(other: str | dict, timesteps: int) -> Schedule:
    """What --sampling_schedule means: a family with its defaults, or a file's content."""
    return Schedule.from_dict(other) if isinstance(other, dict) else Schedule(other, timesteps)


def load_sampler(path, device, args=None) -> tuple[UNet, Sampler]:
    """The network in a checkpoint and its sampler, set as `args` or as its own run says."""
    net, state = load_network(path, device)
    args = args or argparse.Namespace(**state["args"])
    return net, Sampler(process_of(state, device), args, state["shape"], device)
