"""Rewards of images: a classifier's, a user's own, their sum; each is checked where it is used.

A reward takes images (B,C,H,W) in [-1, 1] and returns a number an image, (B,). The lower level
needs its gradient, so nothing in it may leave the graph.
"""

import importlib
import traceback
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import Stop
from common.extractors import Extractor
from common.machine import stream
from studies.reward.guidance import Reward

CLASSES = 10
KEPT = "earlier samples are kept; --resume continues once it is fixed"
UNTOUCHED = (Stop, MemoryError, torch.OutOfMemoryError)  # a reward may pass these on


class Checked:
    """A reward whose faults end the run with one line that names it."""

    def __init__(self, name: str, reward: Reward):
        self.name, self.reward = name, reward

    def __call__(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)  # the reward's alone: its gradient is not summed with another's
            x.register_hook(self.check_gradient)
        value = self.value_of(x)
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
                f"reward {self.name}: NaN or infinite for {wrong} of {len(x)} images; {KEPT}"
            )
        return value

    def value_of(self, x: Tensor) -> Tensor:
        """What the function returns; what it raises becomes one line with the place."""
        try:
            return self.reward(x)
        except UNTOUCHED:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[:2][-1]  # the second is the reward's
            text = (str(error).strip().splitlines() or ["no message"])[0][:200]
            raise Stop(
                f"reward {self.name}: {type(error).__name__} in {Path(place.filename).name}, "
                f"line {place.lineno}: {text}; {KEPT}"
            ) from error

    def check_gradient(self, gradient: Tensor) -> None:
        """NaN here would spread to every image, and another reward would be blamed for it."""
        wrong = int((~gradient.isfinite().flatten(1).all(1)).sum())
        if wrong:
            raise Stop(
                f"reward {self.name}: its gradient is NaN or infinite for {wrong} of "
                f"{len(gradient)} images; {KEPT}"
            )


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
    """A reward that options.check_function let pass; ValueError says what is wrong with it."""
    name, _, function = spec.partition(":")
    try:
        reward = getattr(importlib.import_module(name), function)
    except Exception as error:  # whatever the module does when it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{spec}: cannot be loaded ({reason})") from None
    if not callable(reward):
        raise ValueError(f"{spec}: not a function")
    return reward


def values(reward: Reward, images: Tensor, device, size: int = 250) -> Tensor:
    """The reward of many images, (N,) float64 on the CPU."""
    with torch.no_grad():
        return torch.cat([reward(x.to(device)).cpu().double() for x in images.split(size)])


def mean_and_error_of(rewards: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    rewards = rewards.cpu().double()
    return float(rewards.mean()), float(rewards.std() / len(rewards) ** 0.5)
