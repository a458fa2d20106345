"""Rewards of images: a classifier's, a user's own, their sum; each is checked where it is used.

A reward takes images (B,C,H,W) in [-1, 1] and returns a number an image, (B,). The lower level
needs its gradient, so nothing in it may leave the graph.
"""

import importlib
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import Stop
from common.extractors import Extractor
from common.machine import stream
from studies.reward.guidance import Reward

CLASSES = 10


class Checked:
    """A reward whose faults end the run with one line that names it."""

    def __init__(self, name: str, reward: Reward):
        self.name, self.reward = name, reward

    def __call__(self, x: Tensor) -> Tensor:
        value = self.reward(x)
        if not isinstance(value, Tensor) or tuple(value.shape) != (len(x),):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise Stop(
                f"reward {self.name}: returned {shape} for {len(x)} images; it must return one "
                f"number an image, ({len(x)},)", code=2
            )  # fmt: skip
        if x.requires_grad and not value.requires_grad:
            raise Stop(
                f"reward {self.name}: its value has no gradient; it must not detach, round or "
                "convert the images to numbers on the way", code=2
            )  # fmt: skip
        if wrong := int((~value.detach().isfinite()).sum()):
            raise Stop(
                f"reward {self.name}: NaN or infinite for {wrong} of {len(x)} images; what was "
                "sampled before is kept, --resume continues once it is fixed"
            )
        return value


class LogProbability:
    """r1: the log-probability of a class by a classifier, of the image clamped to [-1, 1]."""

    def __init__(self, extractor: Extractor, target_class: int):
        self.extractor, self.target_class = extractor, target_class

    def __call__(self, x: Tensor) -> Tensor:
        return F.log_softmax(features_and_logits(self.extractor, x)[1], 1)[:, self.target_class]


class Direction:
    """r2: a direction of a classifier's features, with mean 0 and deviation 1 on given images."""

    def __init__(self, extractor: Extractor, direction: Tensor, mean: float, deviation: float):
        self.extractor, self.direction = extractor, direction  # (dim,)
        self.mean, self.deviation = mean, deviation

    def __call__(self, x: Tensor) -> Tensor:
        features, _ = features_and_logits(self.extractor, x)
        return (features @ self.direction - self.mean) / self.deviation


class Weighted:
    """r2 + w r1, with the gradients of both."""

    def __init__(self, lower: Reward, upper: Reward, weight: float):
        self.lower, self.upper, self.weight = lower, upper, weight

    def __call__(self, x: Tensor) -> Tensor:
        return self.lower(x) + self.weight * self.upper(x)


def features_and_logits(extractor: Extractor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the clamped image: outside [-1, 1] a classifier's outputs grow without end."""
    net: nn.Module = extractor.net
    return net(net.fit(x.clamp(-1, 1)))


def random_direction(dim: int, seed: int) -> Tensor:
    """The direction that --direction numbers, (dim,)."""
    return F.normalize(torch.randn(dim, generator=stream("cpu", seed, "direction")), dim=0)


def loaded(spec: str) -> Reward:
    """A reward given as module:function; ValueError says what is wrong with it."""
    name, _, function = spec.partition(":")
    if not (name and function):
        raise ValueError(f"{spec}: not of the form module:function")
    if (home := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, home)
    try:
        reward = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{spec}: cannot be loaded ({error})") from None
    if not callable(reward):
        raise ValueError(f"{spec}: not a function")
    return reward


def values(reward: Reward, images: Tensor, device, size: int = 250) -> Tensor:
    """The reward of many images, (N,) float64 on the CPU."""
    with torch.no_grad():
        return torch.cat([reward(x.to(device)).double().cpu() for x in images.split(size)])
