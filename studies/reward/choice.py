"""Which class and which direction the study takes: a declared rule, on samples of its own.

The upper level is a question only where E[r1] under p_lambda has a maximum inside the range of
lambda. Of all pairs of a class and a direction whose maximum is well inside, the rule takes the one
whose maximum is furthest above both ends: E[r1] without guidance, and E[r1] at the smallest lambda.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import Stop
from common.extractors import Extractor
from studies.reward import estimator
from studies.reward.rewards import (
    CLASSES,
    Direction,
    LogProbability,
    features_and_logits,
    random_direction,
)

INSIDE = 2.5  # well inside: so many times the smallest lambda, and as far from the largest
GRID = 60  # values of lambda, evenly spaced in its logarithm


@dataclass(frozen=True)
class Pair:
    """A class and a direction, r2's standardisation, and how far the maximum stands out."""

    target_class: int
    direction: int
    mean: float
    deviation: float
    best: float  # lambda
    gain: float
    inside: bool

    def rewards(self, first: Extractor, second: Extractor) -> tuple[LogProbability, Direction]:
        """r1 and r2."""
        h = random_direction(first.dim, self.direction).to(next(first.parameters()).device)
        lower = Direction(first, h, self.mean, self.deviation)
        return LogProbability(second, self.target_class), lower


def candidates(
    images: Tensor,
    first: Extractor,
    second: Extractor,
    classes: list[int],
    directions: list[int],
    min_ess: float,
    lambda_max: float,
    device,
) -> list[Pair]:
    """Every pair, the best first."""
    features, log_q = [], []
    with torch.no_grad():
        for x in images.split(250):
            features.append(features_and_logits(first, x.to(device))[0].cpu().double())
            log_q.append(features_and_logits(second, x.to(device))[1].cpu().double().log_softmax(1))
    phi, log_q = torch.cat(features), torch.cat(log_q).numpy()  # (N,dim), (N,10)
    pairs = []
    for direction in directions:
        projected = (phi @ random_direction(first.dim, direction).double()).numpy()
        mean, deviation = float(projected.mean()), float(projected.std())
        if not deviation > 0:
            raise Stop("all images of the choice have the same features: r2 is constant")
        r2 = (projected - mean) / deviation
        low = estimator.smallest_lambda(r2, min_ess)
        for c in classes:
            best, gain = interior_gain(log_q[:, c], r2, low, lambda_max)
            inside = INSIDE * low <= best <= lambda_max / INSIDE
            pairs.append(Pair(c, direction, mean, deviation, best, gain, inside))
    return sorted(pairs, key=lambda pair: (not pair.inside, -pair.gain))


def interior_gain(r1: np.ndarray, r2: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The lambda of the largest weighted E[r1], and its height above the higher end.

    The height is the smaller of those in two halves of the samples: a maximum that one half alone
    shows is noise.
    """
    grid = estimator.grid(low, max(high, 2 * low), GRID)
    best = max(estimator.curve(r1, r2, grid), key=lambda row: row["r1"])["lambda"]
    gains = []
    for half in (slice(None, None, 2), slice(1, None, 2)):
        a, b = r1[half], r2[half]
        at_low, at_best = (estimator.mean_under(a, b / lam) for lam in (low, best))
        gains.append(at_best - max(at_low, float(a.mean())))
    return best, min(gains)


def chosen(
    images: Tensor,
    first: Extractor,
    second: Extractor,
    target_class: int | None,
    direction: int | None,
    n_directions: int,
    min_ess: float,
    lambda_max: float,
    device,
) -> Pair:
    """The pair of the rule, among those that the flags leave open."""
    classes = list(range(CLASSES)) if target_class is None else [target_class]
    directions = list(range(n_directions)) if direction is None else [direction]
    if len(images) < min_ess:
        raise Stop(f"--choice_samples {len(images)} is below --min_ess {min_ess:g}", code=2)
    return candidates(
        images, first, second, classes, directions, min_ess, lambda_max, device
    )[0]  # fmt: skip
