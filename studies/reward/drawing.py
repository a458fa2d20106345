"""A pre-trained model as the study sees it: noise in, images out, guided or not; and its samples.

Samples without guidance are drawn once and kept in the cache, a sealed file a chunk, so that an
interrupted run, and every other method, goes on with what is there.
"""

import fcntl
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from common import checkpoint
from common.errors import Stop
from common.networks import load_network
from common.sampling import Sampler, SamplerSettings, process_of
from studies.reward.guidance import Guided, LowerLevel, Reward

DIGITS = (1, 28, 28)
CHUNK = 256  # images in a file of the cache
Poll = Callable[[], None]


class Model(Protocol):
    """What the study needs of a pre-trained diffusion model."""

    shape: tuple[int, ...]  # of the starting noise of an image
    draws_digits: bool  # of 28x28 pixels, as the classifiers know them
    passes: int  # forward passes an image without guidance
    device: torch.device
    identity: str  # of the weights and the settings: names the samples in the cache
    sizes: list[tuple[float, int]]  # of each guided call, its gradients' mean size, its images

    def noise(self, n: int, seed: int, *names) -> Tensor: ...

    def draw(self, noise: Tensor, reward: Reward | None, lam: float, poll: Poll) -> Tensor:
        """Images in [-1, 1], on the device; `poll` is called after every step."""
        ...


class DigitModel:
    """A checkpoint of this project, sampled by DDIM."""

    def __init__(self, path: str, settings: SamplerSettings, device: torch.device):
        self.net, state = load_network(path, device)
        self.sampler = Sampler(process_of(state, device), settings, state["shape"])
        self.draws_digits = state["args"]["dataset"] == "mnist" and tuple(state["shape"]) == DIGITS
        if settings.steps > self.sampler.process.schedule.timesteps:
            limit = self.sampler.process.schedule.timesteps
            raise Stop(f"--backward_steps {settings.steps} exceeds T = {limit} of {path}", code=2)
        process = self.sampler.process
        if process.sampling_schedule is not process.schedule:
            raise Stop(f"{path}: samples with another schedule than it was trained with", code=2)
        if process.reference is not None:  # guidance takes the levels of the time it is told
            raise Stop(f"{path}: trained with --time_condition log_snr, not with index", code=2)
        self.shape, self.passes, self.device = self.sampler.shape, settings.steps, device
        weights = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        self.identity = f"{weights} {settings.steps} {settings.tau_type} {settings.clip}"
        self.sizes: list[tuple[float, int]] = []

    def noise(self, n: int, seed: int, *names) -> Tensor:
        return self.sampler.noise(n, seed, *names, device="cpu")

    def draw(self, noise: Tensor, reward: Reward | None, lam: float, poll: Poll) -> Tensor:
        net: nn.Module = self.net
        if reward is not None:
            net = Guided(self.net, self.sampler.process, reward, lam)
        with torch.no_grad():
            images = self.sampler(net, noise, on_step=lambda _: poll())
        if isinstance(net, Guided):
            self.sizes.append((net.mean_size(), len(noise)))
        return images


@dataclass(frozen=True)
class Sampling:
    """A run's way of drawing images: its model, its lower level, its seed, its cache."""

    model: Model
    lower_level: LowerLevel
    seed: int
    chunk: int  # images at once
    folder: Path  # of the cached samples
    poll: Poll
    log: Callable[[str], None]

    def samples(self, n: int, purpose: str, seed: int | None = None) -> tuple[Tensor, float]:
        """n images without guidance on the CPU, and the CPU seconds of drawing them."""
        seed = self.seed if seed is None else seed
        self.folder.mkdir(parents=True, exist_ok=True)
        parts, seconds, count = [], 0.0, min(CHUNK, n)
        for i in range(-(-n // count)):
            facts = f"{self.model.identity} {seed} {purpose} {i} {count}"
            path = self.folder / f"samples-{hashlib.sha256(facts.encode()).hexdigest()[:20]}.pt"
            of_chunk = (self.model, seed, purpose, i, count, self.chunk, self.poll)
            state = kept(path, partial(drawn, *of_chunk), self.log)
            parts.append(state["images"])
            seconds += state["cpu_seconds"]
        return torch.cat(parts)[:n], seconds

    def noise(self, n: int, purpose: str) -> Tensor:
        """The noise that `samples` of this purpose start from."""
        count = min(CHUNK, n)
        parts = [self.model.noise(count, self.seed, purpose, i) for i in range(-(-n // count))]
        return torch.cat(parts)[:n]

    def guided(self, noise: Tensor, reward: Reward, lam: float) -> Tensor:
        """Images of the lower level from starting noise."""

        def draw(part, r, strength):
            return self.model.draw(part, r, strength, self.poll)

        parts = noise.split(self.chunk)
        return torch.cat([self.lower_level(draw, part, reward, lam) for part in parts])

    @property
    def cost(self) -> int:
        """Forward passes of a guided image."""
        return self.lower_level.evaluations(self.model.passes)


def kept(path: Path, draw: Callable[[], dict], log) -> dict:
    """What a file of the cache holds; drawn by one process if it is missing or damaged."""
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            try:
                return checkpoint.load(path)
            except Stop as error:
                log(f"warning: {error}; its images are drawn again")
        state = draw()
        checkpoint.save(path, state)
        return state


def drawn(model: Model, seed: int, purpose: str, i: int, count: int, size: int, poll: Poll) -> dict:
    """Chunk i of the samples."""
    began = time.process_time()  # the load of the machine is none of the method's cost
    noise = model.noise(count, seed, purpose, i)
    parts = [model.draw(part, None, 1.0, poll).cpu() for part in noise.split(size)]
    return {"images": torch.cat(parts), "cpu_seconds": time.process_time() - began}
