"""How good generated images are: FID, Inception Score and KID, to be trusted and differentiated.

Every number is computed in float64 from features alone. A FID depends on its number of samples, on
the extractor of the features and on the reference: common/judging.py names all three beside it.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
KID_SAMPLES = 2000  # of each side: its mean does not depend on how many, unlike that of FID
NEIGHBOURS = 3  # k of precision and recall
SAFE = 1e140  # features below it have a variance that float64 can hold


@dataclass
class Reference:
    """The Gaussian fitted to a real data set's features."""

    mean: Tensor  # (d,) float64
    cov: Tensor  # (d,d) float64
    n: int
    name: str
    extractor: str
    weights_hash: str = ""
    sample: Tensor | None = None  # (m,d) of the features themselves, for KID

    @cached_property
    def root(self) -> Tensor:
        """cov = root·rootᵀ, computed once, without the directions that rounding made."""
        eigenvalues, vectors = torch.linalg.eigh(self.cov)
        kept = eigenvalues > eigenvalues[-1] * len(eigenvalues) * EPS
        root = vectors.mT[kept] * eigenvalues[kept].sqrt()[:, None]
        return root.contiguous().mT  # (d,rank), column after column: twice as fast with few samples

    @cached_property
    def trace(self) -> Tensor:
        """The total variance."""
        return self.cov.trace()


def frechet_distance(
    features: Tensor, reference: Reference, largest: float | None = None
) -> Tensor:
    """|mu - mu_r|² + Tr(C + C_r - 2·sqrt(C·C_r)), for n features (n,d) and a reference.

    Has a first derivative, in reverse and in forward mode. For n <= d nothing d wide is
    decomposed but the reference, once.
    `largest` is the largest absolute feature, where it is known: on a GPU, asking is a wait.
    """
    x, largest = _checked(features, len(reference.mean), largest)
    if len(x) < 2:
        raise ValueError(f"FID needs at least 2 samples, not {len(x)}")
    mean, root = _gaussian(x)  # (d,), (n-1,d)
    if len(x) > len(mean):
        return _distance_of_moments(mean, root.mT @ root, reference)
    trace = root.square().sum()
    scale = _scale(trace, reference, checked=largest < SAFE)
    product = reference.root.mT @ (root / scale).mT.contiguous()  # (rank,n-1)
    trace_sqrt = scale * _nuclear_norm(product)
    return _distance(mean, trace, trace_sqrt, reference)


def _gaussian(x):
    """The mean, and a root with n-1 rows whose rootᵀ·root is the covariance.

    The n centred rows sum to zero, so their n×n Gram matrix always has a zero eigenvalue, where
    sqrt has no derivative. Reflecting (1,…,1) onto the first axis leaves n-1 rows without it.
    """
    n = len(x)
    shifted = x - x[:1]  # equal rows become exact zeros
    offset = shifted.mean(0)
    centred = shifted - offset  # (n,d)
    rows = centred[1:] + centred[:1] / (math.sqrt(n) - 1)
    return x[0] + offset, rows / math.sqrt(n - 1)


def _distance_of_moments(mean, cov, reference):
    trace = cov.trace()
    scale = _scale(trace, reference)
    root = reference.root / scale
    trace_sqrt = scale * _trace_sqrt(root.mT @ cov @ root)
    return _distance(mean, trace, trace_sqrt, reference)


def _distance(mean, trace, trace_sqrt, reference):
    gap = (mean - reference.mean).square().sum()
    return (gap + trace + reference.trace - 2 * trace_sqrt).clamp(min=0)


def _scale(trace, reference, checked=False):
    """Brings the eigenvalues to about 1, so that neither 1e-30 nor 1e30 leaves float64's range."""
    if not checked and not torch.isfinite(trace.detach()):
        raise ValueError("the features are too large: their variance is not finite in float64")
    scale = trace.detach().sqrt() * reference.trace.sqrt()
    return torch.where(scale > 0, scale, 1.0)


def _nuclear_norm(product):
    """The sum of the singular values: Tr sqrt(C·C_r), where `product` is root_rᵀ·rootᵀ.

    The singular values are the square roots of the n×n problem's eigenvalues, without the digits
    that squaring costs. The norm's derivative is the polar factor U·Vᵀ, taken as a constant: no
    derivative of U or V, so equal singular values do no harm, and those of zero are left out.
    """
    u, sigma, vt = torch.linalg.svd(product.detach(), full_matrices=False)
    if not sigma.numel():
        return product.sum()
    polar = (u * (sigma > sigma[0] * max(product.shape) * EPS)) @ vt
    return (polar * product).sum()


def _trace_sqrt(product):
    """The sum of the square roots of a symmetric matrix's eigenvalues, whose sum is about 1."""
    if not len(product):
        return product.sum()
    eigenvalues = torch.linalg.eigvalsh(product)
    # At an eigenvalue that is zero but for rounding, sqrt has no derivative: it is held constant.
    plain = eigenvalues.detach()
    sound = plain > len(plain) * EPS
    constant = torch.where(sound, 0.0, plain).clamp(min=0)
    return torch.where(sound, eigenvalues, 1.0).sqrt().mul(sound).sum() + constant.sqrt().sum()


def largest_of(features: Tensor) -> float:
    """The largest absolute feature; NaN or infinite if any feature is."""
    return float(features.detach().abs().max()) if features.numel() else 0.0


def _checked(features, d=None, largest=None):
    """The features as float64, and the largest; or a ValueError before any linear algebra."""
    if features.ndim != 2 or (d is not None and features.shape[1] != d):
        raise ValueError(f"features are (n,{d or 'd'}), not {tuple(features.shape)}")
    largest = largest_of(features) if largest is None else largest
    if not math.isfinite(largest):
        raise ValueError("a feature is not finite")
    return features.to(float64_home(features.device)).double(), largest


def float64_home(device: torch.device | str) -> torch.device:
    """The device itself, or the CPU beside one that has no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def inception_score(probs: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence from the mean probabilities: mean, deviation over splits."""
    probs, _ = _checked(probs)
    n = len(probs)
    if splits < 1 or n < splits:
        raise ValueError(f"the Inception Score in {splits} splits needs that many samples, not {n}")
    if (probs < 0).any() or ((probs.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError("class probabilities must be non-negative and sum to 1")
    edges = [i * n // splits for i in range(splits + 1)]
    scores = []
    for start, end in itertools.pairwise(edges):
        part = probs[start:end]
        entropy = torch.special.entr(part).sum(1).mean()
        scores.append((torch.special.entr(part.mean(0)).sum() - entropy).exp())
    each = torch.stack(scores)
    return float(each.mean()), float(each.std(correction=0))


def kid(features: Tensor, real_features: Tensor) -> float:
    """The unbiased squared MMD with kernel (x·y/d + 1)³; near 0 for like sets, at times below."""
    x, _ = _checked(features)
    y, _ = _checked(real_features, x.shape[1])
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"KID needs at least 2 samples on each side, not {len(x)} and {len(y)}")
    value = float(_kernel_mean(x) + _kernel_mean(y) - 2 * _kernel_mean(x, y))
    if not math.isfinite(value):
        raise ValueError("the features are too large: their kernel is not finite in float64")
    return value


def precision_recall(
    features: Tensor, real_features: Tensor, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """How much of one set lies within the other: generated among real, real among generated.

    A set covers the balls around its points that reach to their k-th nearest neighbours in it.
    """
    x, _ = _checked(features)
    y, _ = _checked(real_features, x.shape[1])
    if min(len(x), len(y)) <= k:
        raise ValueError(f"precision and recall need more than {k} samples on each side")
    distances = torch.cdist(x, y)  # (n,m)
    precision = (distances <= _radii(y, k)).any(1)
    recall = (distances <= _radii(x, k)[:, None]).any(0)
    return float(precision.double().mean()), float(recall.double().mean())


def _radii(x, k):
    """The distance of each row to its k-th nearest neighbour among the others."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values  # the nearest is the row itself


def _kernel_mean(x, y=None):
    """The kernel's mean over all pairs, or over pairs of different rows of x; in blocks of rows."""
    other, total = (x if y is None else y), 0.0
    for block in x.split(1000):
        total = total + _cubic(block @ other.mT, x.shape[1]).sum()
    if y is not None:
        return total / (len(x) * len(y))
    return (total - _cubic(x.square().sum(1), x.shape[1]).sum()) / (len(x) * (len(x) - 1))


def _cubic(products, d):
    return (products / d + 1) ** 3


class FeatureStatistics:
    """Mean and covariance of a stream of features, and its class probabilities.

    Up to d rows wait and are then merged into the moments: memory stays at d×d, and a stream of no
    more than d rows is measured exactly as `frechet_distance` measures it.
    """

    def __init__(self):
        self.n = self.merged = 0
        self.mean = self.scatter = None  # of the merged rows; scatter is cov·(merged-1)
        self.waiting, self.probs = [], []
        self.sample = []  # the first features, for KID

    @torch.no_grad()
    def update(self, features: Tensor, probs: Tensor | None = None) -> None:
        """Take in a batch (N,d) and, where a score is wanted, its probabilities (N,K)."""
        seen = [self.mean] if self.merged else self.waiting
        features, _ = _checked(features.detach(), seen[0].shape[-1] if seen else None)
        if probs is not None:
            self.probs.append(probs.detach())
        if len(features):
            self.waiting.append(features)
        if self.n < KID_SAMPLES:
            self.sample.append(features[: KID_SAMPLES - self.n])
        self.n += len(features)
        if self.n - self.merged > features.shape[1]:
            self._merge()

    @torch.no_grad()
    def fid(self, reference: Reference) -> float:
        """The FID of everything taken in so far."""
        if self.n < 2:
            raise ValueError(f"FID needs at least 2 samples, not {self.n}")
        if not self.merged:
            return float(frechet_distance(torch.cat(self.waiting), reference))
        mean, cov = self.moments()
        if len(mean) != len(reference.mean):
            raise ValueError(f"{len(mean)} features, but the reference has {len(reference.mean)}")
        return float(_distance_of_moments(mean, cov, reference))

    def inception_score(self, splits: int = 10) -> tuple[float, float]:
        """The score of everything taken in so far."""
        if not self.probs:
            raise ValueError("no class probabilities were taken in")
        return inception_score(torch.cat(self.probs), splits)

    def kid(self, reference: Reference) -> float | None:
        """KID of the first features taken in; None for a reference that kept none."""
        if reference.sample is None:
            return None
        return kid(torch.cat(self.sample), reference.sample)

    def precision_recall(self, reference: Reference) -> tuple[float | None, float | None]:
        """Of the first features taken in; None where there are too few, or the reference's none."""
        if reference.sample is None or min(self.n, len(reference.sample)) <= NEIGHBOURS:
            return None, None
        return precision_recall(torch.cat(self.sample), reference.sample, NEIGHBOURS)

    def confidence(self) -> float:
        """The mean of the largest class probability."""
        if not self.probs:
            raise ValueError("no class probabilities were taken in")
        return float(torch.cat(self.probs).max(1).values.cpu().double().mean())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d,d), float64."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.n}")
        self._merge()
        return self.mean, self.scatter / (self.n - 1)

    def _merge(self):
        if not self.waiting:
            return
        x = torch.cat(self.waiting)
        shift = x[0] if self.mean is None else self.mean
        offset = (x - shift).mean(0)
        centred = x - shift - offset
        scatter = centred.mT @ centred
        if self.mean is None:
            self.mean, self.scatter = shift + offset, scatter
        else:
            weight = len(x) * self.merged / self.n
            self.scatter += scatter.addr_(offset, offset, alpha=weight)
            self.mean = self.mean + offset * (len(x) / self.n)
        self.merged, self.waiting = self.n, []
