"""The objective of the upper level: the FID of images as a function of schedule and weights."""

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.errors import NotFinite
from common.judging import Judge
from common.sampling import Sampler
from metrics import frechet_distance, largest_of
from model import Levels
from scheduler import Schedule


@dataclass(frozen=True)
class UpperSettings:
    """How the FID of the upper level is drawn and differentiated."""

    backward_steps: int
    samples: int
    seed: int = 0
    directions: int = 1
    zo_type: str = "two"
    delta: float = 0.01
    perturbation: str = "scaled"  # of q: to its scales and inside its bounds, or as published
    noise: str = "common"  # starting noise on the sides of a difference
    upper_gradient: str = "zo"
    truncation: float | None = None  # times above this part of T are constants; None: LEAST_SIGNAL
    at_once: int = 128  # images whose DDIM step is stored at once in reverse mode
    amp: bool = False
    eager: bool = False  # exact gradients run without the compiler

    @classmethod
    def from_flags(
        cls, *, backward_steps, zo_samples, seed, zo_directions, ZO_type, delta,
        perturbation, noise, upper_gradient, truncation, batch_size, amp, compile, **_,
    ) -> "UpperSettings":  # fmt: skip
        """The settings that the bilevel script's flags ask for; other flags are left alone."""
        return cls(
            backward_steps, zo_samples, seed, zo_directions, ZO_type, delta, perturbation,
            noise, upper_gradient, truncation, batch_size, amp, compile != "off",
        )  # fmt: skip


class Objective:
    """F(q, theta) = FID(images drawn with schedule q and network theta)."""

    def __init__(
        self,
        sampler: Sampler,
        judge: Judge,
        schedule: Schedule,
        settings: UpperSettings,
        evaluations: Counter | None = None,
    ):
        # DDIM: the images are a function of q, theta and the noise alone. Autocast does not reach
        # dual numbers, and exact gradients are worth their digits
        amp = settings.amp and settings.upper_gradient == "zo"
        graphs = sampler.settings.graphs and settings.upper_gradient == "zo"  # values alone
        drawn = replace(
            sampler.settings, eta=0.0, steps=settings.backward_steps, amp=amp, graphs=graphs
        )
        self.sampler, self.judge = Sampler(sampler.process, drawn, sampler.shape), judge
        self.schedule, self.settings = schedule, settings
        self.evaluations = Counter() if evaluations is None else evaluations

    def levels(self, q: Tensor) -> Levels:
        return self.sampler.process.levels_of(self.schedule.curve(q))

    def features(self, net: nn.Module, levels: Levels, noise: Tensor, **options) -> Tensor:
        """The features of the images that starting noise becomes, (n,d)."""
        return self.judge.extractor(self.sampler(net, noise, levels=levels, **options))[0]

    def fid(self, net: nn.Module, levels: Levels, noise: Tensor, **options) -> Tensor:
        """F from given starting noise."""
        return self.distance(self.features(net, levels, noise, **options))

    def distances(self, features: Tensor) -> Tensor:
        """The FIDs of the images of k points, (k,n,d) -> (k,); all are checked at once."""
        largest = largest_of(features)
        return torch.stack([self.distance(part, largest) for part in features])

    def distance(self, features: Tensor, largest: float | None = None) -> Tensor:
        """The FID of features; what is not finite in them ends the run."""
        try:
            return frechet_distance(features, self.judge.reference, largest)
        except ValueError as error:
            raise NotFinite(f"the FID ({error})") from None

    def noises(self, k: int, *names) -> Tensor:
        """Starting noise for k points, (k,n,C,H,W): the same for all, or for each its own."""
        n, common = self.settings.samples, self.settings.noise == "common"
        self.count(k * n)
        x = self.sampler.noise(n if common else k * n, self.settings.seed, "upper", *names)
        return x.expand(k, *x.shape) if common else x.unflatten(0, (k, n))

    def count(self, images: int) -> None:
        """So many images are drawn."""
        self.evaluations["upper"] += images * self.sampler.steps
