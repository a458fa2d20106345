"""Our side and the plain one: a network each and everything around it, ready to be timed.

Images and reference are drawn: nothing is read or downloaded. InceptionV3 has random weights, which
cost what the official ones cost.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import nn

from benchmarks import plain
from common.extractors import Extractor, load_extractor
from common.fast_layers import frozen
from common.fast_unet import FastUNet
from common.inception import FidInception
from common.judging import Judge
from common.machine import stream
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.training import denoising_step, make_optimizer
from common.upper_level import Slope, UpperLevel
from common.weights import evaluating
from metrics import Reference
from model import Diffusion
from scheduler import Schedule
from unet import UNet

TIMESTEPS, SHAPE = 1000, (1, 28, 28)


@dataclass(frozen=True)
class Sizes:
    """What is measured: by default the published flags."""

    device: str = "cpu"
    base: int = 64
    batch_size: int = 128
    steps: int = 100
    images: int = 36
    extractor: str = "inception"
    amp: bool = False


class Sides:
    """One network for each side, with the same weights, images and noise."""

    def __init__(self, sizes: Sizes):
        torch.manual_seed(0)
        device = self.device = torch.device(sizes.device)
        self.sizes = sizes
        self.ours, self.plain = FastUNet(sizes.base).to(device), UNet(sizes.base).to(device)
        self.plain.load_state_dict(self.ours.state_dict())
        self.optimizers = {
            self.ours: make_optimizer(self.ours.parameters(), 1e-3),
            self.plain: torch.optim.AdamW(self.plain.parameters(), lr=1e-3, foreach=False),
        }
        self.schedule = Schedule("cosine", TIMESTEPS, learned=True).to(device)
        self.process = Diffusion(self.schedule, device=device)
        self.sampler = Sampler(self.process, SamplerSettings(sizes.steps, amp=sizes.amp), SHAPE)
        self.extractor = make_extractor(sizes.extractor, device)
        self.plain_extractor = deepcopy(self.extractor).to(memory_format=torch.contiguous_format)
        self.reference = drawn_reference(self.extractor, device)
        settings = UpperSettings(
            sizes.steps, sizes.images, truncation=1.0, at_once=sizes.batch_size, amp=sizes.amp
        )
        judge = Judge(self.extractor, self.reference)
        self.upper = {
            kind: UpperLevel(
                self.sampler, judge, self.schedule, replace(settings, upper_gradient=kind)
            )
            for kind in ("zo", "forward", "exact")
        }
        self.x0 = torch.rand(sizes.batch_size, *SHAPE, device=device) * 2 - 1
        self.noise = self.sampler.noise(sizes.images, 0, "bench")
        with torch.no_grad():
            self.levels = self.process.levels()

    def train(self, net: nn.Module, extra: torch.Tensor | None = None) -> None:
        """A training step, always on the same images."""
        random = stream(self.device, 0, "bench")
        amp, optimizer = self.amp(net), self.optimizers[net]
        denoising_step(self.process, net, optimizer, self.x0, random, amp, self.levels, extra)

    def amp(self, net: nn.Module) -> bool:
        return self.sizes.amp and net is not self.plain

    def precision(self, net: nn.Module):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp(net))

    @contextmanager
    def passes(self, *nets: nn.Module) -> Iterator[None]:
        """Around single passes: what a sampling does once for all of its own."""
        with torch.inference_mode(), evaluating(*nets), ExitStack() as stack:
            for net in nets:
                stack.enter_context(self.precision(net))
                stack.enter_context(frozen(net))
            yield

    def forward(self, net: nn.Module) -> None:
        """One pass of a sampling."""
        with self.precision(net):
            net(self.noise, torch.tensor([TIMESTEPS // 2], device=self.device))

    def sample(self, net: nn.Module) -> None:
        with torch.inference_mode(), evaluating(net):
            if net is self.ours:
                self.sampler(net, self.noise, levels=self.levels)
            else:
                self.process.sample(net, self.noise, self.sizes.steps, levels=self.levels)

    def plain_difference(self) -> None:
        """Both sides of a zeroth-order difference, sampled one after the other."""
        fixed = self.sampler, self.levels, self.plain_extractor, self.reference, self.noise
        with evaluating(self.plain):
            for _ in range(2):
                plain.side(self.plain, *fixed)

    def slope_of_schedule(self, kind: str) -> Slope:
        return self.upper[kind].slope_of_schedule(self.ours, 0)

    def slope_of_weights(self) -> Slope:
        return self.upper["zo"].slope_of_weights(self.ours, 0)


def make_extractor(name: str, device: torch.device) -> Extractor:
    if name == "mnist":
        return load_extractor(name, device)
    with mock.patch.object(torch.nn.Module, "load_state_dict"):
        return Extractor(name, FidInception({}), "random weights").to(device)


def drawn_reference(extractor: Extractor, device: torch.device) -> Reference:
    """A Gaussian of falling variances, with what is made of it once."""
    dim = extractor.dim
    x = torch.randn(5 * dim, dim, dtype=torch.float64) * torch.arange(1, dim + 1) ** -0.5
    mean, cov = x.mean(0).to(device), x.mT.cov().to(device)
    reference = Reference(mean, cov, 5 * dim, "drawn", extractor.name)
    assert reference.root.shape == (dim, dim)  # computed here, not within a row
    return reference
