"""What importance weights on pre-trained samples say about lambda, without any guided sampling.

The lower level's solution is the tilted law p_lambda ~ p_data exp(r2/lambda). The upper level
minimises -E[r1] under it, by the penalty L_gamma(lambda) = gamma lambda log(Z/Z_gamma), where Z and
Z_gamma are the means of exp(r2/lambda) and of exp((r2 + r1/gamma)/lambda) over p_data. Everything
is in float64, and every mean of exponentials is a log-sum-exp.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def log_mean_exp(s: ArrayLike) -> float:
    """log of the mean of exp(s), (N,)."""
    s = np.asarray(s, np.float64)
    top = s.max()
    return float(top + np.log(np.mean(np.exp(s - top))))


def weights(s: ArrayLike) -> Values:
    """The self-normalised weights of the law tilted by exp(s): softmax, (N,)."""
    s = np.asarray(s, np.float64)
    w = np.exp(s - s.max())
    return w / w.sum()


def effective_samples(s: ArrayLike) -> float:
    """1/sum of squared weights: as many equally weighted samples would say as much."""
    return float(1 / np.square(weights(s)).sum())


def mean_under(values: ArrayLike, s: ArrayLike) -> float:
    """The mean of values (N,) under the law tilted by exp(s)."""
    return float(weights(s) @ np.asarray(values, np.float64))


def kl_of_tilt(s: ArrayLike) -> float:
    """KL(p_s || p_data) of the law tilted by exp(s)."""
    s = np.asarray(s, np.float64)
    return mean_under(s, s) - log_mean_exp(s)


def kl_to_tilt(s: ArrayLike) -> float:
    """KL(p_data || p_s): the other direction."""
    s = np.asarray(s, np.float64)
    return log_mean_exp(s) - float(s.mean())


def penalised(r1: ArrayLike, r2: ArrayLike, gamma: float) -> Values:
    """r2 + r1/gamma: the reward whose tilted law the penalty compares with that of r2."""
    return np.asarray(r2, np.float64) + np.asarray(r1, np.float64) / gamma


def weighted_gradient(r1: ArrayLike, r2: ArrayLike, lam: float, gamma: float) -> float:
    """dL_gamma/dlambda = gamma [KL(p_gamma || p_data) - KL(p_lambda || p_data)] (Danskin)."""
    s = np.asarray(r2, np.float64) / lam
    return gamma * (kl_of_tilt(penalised(r1, r2, gamma) / lam) - kl_of_tilt(s))


def published_gradient(r1: ArrayLike, r2: ArrayLike, lam: float, gamma: float) -> float:
    """The published estimator, with both divergences the wrong way round.

    It equals gamma [KL(p_data || p_gamma) - KL(p_data || p_lambda)], and for a large gamma it
    vanishes where E[r1] returns to that of p_data, not where it is largest.
    """
    s = np.asarray(r2, np.float64) / lam
    return gamma * (kl_to_tilt(penalised(r1, r2, gamma) / lam) - kl_to_tilt(s))


def guided_gradient(size_penalised: float, size: float, gamma: float) -> float:
    """The published estimator from two guided runs: half the difference of mean guidance norms.

    Girsanov's theorem has squares, each over its step's variance; this has neither.
    """
    return gamma * (size_penalised - size) / 2


def limit_gradient(r1: ArrayLike, r2: ArrayLike, lam: float) -> float:
    """-dE[r1]/dlambda under p_lambda, which is Cov(r1, r2)/lambda²: the limit of large gamma."""
    r1, r2 = np.asarray(r1, np.float64), np.asarray(r2, np.float64)
    s = r2 / lam
    centred = r2 - mean_under(r2, s)
    return mean_under(r1 * centred, s) / lam**2


def smallest_lambda(r2: ArrayLike, min_ess: float) -> float:
    """The smallest lambda whose weights keep `min_ess` effective samples.

    The effective sample size falls with 1/lambda, so halving the interval finds it; infinite if
    there are not so many samples.
    """
    r2 = np.asarray(r2, np.float64)
    spread = float(r2.max() - r2.min())
    if len(r2) < min_ess:
        return math.inf
    if not spread:  # all weights are equal for every lambda
        return 0.0
    low, high = math.log(spread) - 20, math.log(spread) + 20
    if effective_samples(r2 / math.exp(low)) >= min_ess:  # ties at the top
        return math.exp(low)
    for _ in range(60):
        middle = (low + high) / 2
        enough = effective_samples(r2 / math.exp(middle)) >= min_ess
        low, high = (low, middle) if enough else (middle, high)
    return math.exp(high)


def curve(r1: ArrayLike, r2: ArrayLike, lams: ArrayLike) -> list[dict[str, float]]:
    """E[r1], E[r2], effective samples and KL(p_lambda || p_data) at each lambda."""
    r1, r2 = np.asarray(r1, np.float64), np.asarray(r2, np.float64)
    rows = []
    for lam in np.asarray(lams, np.float64):
        s = r2 / lam
        rows.append(
            {
                "lambda": float(lam),
                "r1": mean_under(r1, s),
                "r2": mean_under(r2, s),
                "ess": effective_samples(s),
                "kl": kl_of_tilt(s),
            }
        )
    return rows


def grid(low: float, high: float, points: int) -> list[float]:
    """Values of lambda, evenly spaced in its logarithm."""
    return np.geomspace(low, high, points).tolist()


def best_lambda(r1: ArrayLike, r2: ArrayLike, low: float, high: float, points: int = 200) -> float:
    """The maximum of the weighted E[r1] over a fine grid of log lambda: an oracle, not a method."""
    rows = curve(r1, r2, grid(low, high, points))
    return max(rows, key=lambda row: row["r1"])["lambda"]
