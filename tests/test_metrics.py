"""The metrics against closed forms, against three other libraries, and at their edges."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jvp, vmap

from metrics import FeatureStatistics, Reference, frechet_distance


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def fitted(x, name="features"):
    """The reference that a set of features makes."""
    statistics = FeatureStatistics()
    statistics.update(x)
    return Reference(*statistics.moments(), len(x), name, "mnist")


def moments(x):
    """Mean and covariance by numpy, for the other libraries."""
    return x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)


def exact_set(n, mean, cov_root):
    """n samples with exactly this mean and covariance root·rootᵀ, root (d,r) with r < n."""
    z = normal(n, cov_root.shape[1])
    q = torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(n - 1)
    return mean + q @ cov_root.mT


# --- FID: closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(12, 40), (40, 40), (41, 40), (200, 40), (3, 5), (2, 1)])
def test_two_gaussians_that_share_their_axes(n, d):
    """Tr sqrt(C·C_r) is then the sum of sqrt(a·b) over the axes, both forms to 1e-10."""
    rank = min(n - 1, d)
    axes = torch.linalg.qr(normal(d, d))[0]
    ours, theirs = torch.zeros(d).double(), torch.rand(d).double() + 0.1
    ours[:rank] = torch.rand(rank).double() + 0.1
    mean, mean_r = normal(d), normal(d)
    x = exact_set(n, mean, (axes * ours.sqrt())[:, :rank])
    reference = Reference(mean_r, (axes * theirs) @ axes.mT, 1000, "exact", "mnist")
    expected = (mean - mean_r).square().sum() + (ours.sqrt() - theirs.sqrt()).square().sum()
    torch.testing.assert_close(frechet_distance(x, reference), expected, rtol=1e-10, atol=0)


def test_two_gaussians_in_the_plane_with_different_axes():
    """For 2x2 matrices Tr sqrt(M) = sqrt(Tr M + 2·sqrt(det M))."""
    root, root_r, mean = normal(2, 2), normal(2, 2), normal(2)
    product = root @ root.mT @ root_r @ root_r.mT
    trace_sqrt = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = mean.square().sum() + root.square().sum() + root_r.square().sum() - 2 * trace_sqrt
    reference = Reference(torch.zeros(2).double(), root_r @ root_r.mT, 9, "exact", "mnist")
    value = frechet_distance(exact_set(7, mean, root), reference)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("decay", [0, 1, 3])
@pytest.mark.parametrize(("n", "d"), [(36, 128), (128, 128), (129, 128), (700, 128)])
def test_other_libraries_on_the_same_features(n, d, decay):
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    spectrum = torch.arange(1, d + 1).double() ** -decay
    x, real = 1.1 * normal(n, d) * spectrum + 0.1, normal(1000, d) * spectrum
    value = float(frechet_distance(x, fitted(real)))
    (mu, cov), (mu_r, cov_r) = moments(x), moments(real)
    other = _compute_fid(*map(torch.from_numpy, (mu, cov, mu_r, cov_r)))
    assert value == pytest.approx(float(other), rel=1e-6)
    sides = {"mu": mu, "sigma": cov}, {"mu": mu_r, "sigma": cov_r}
    other = fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert value == pytest.approx(other, rel=1e-6)


def test_pytorch_fid_on_the_same_features():
    from pytorch_fid.fid_score import calculate_frechet_distance

    x, real = 1.1 * normal(300, 64) + 0.1, normal(1000, 64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            other = calculate_frechet_distance(*moments(x), *moments(real))
    except (TypeError, ValueError) as error:
        pytest.skip(f"pytorch-fid does not work with this scipy: {error}")
    assert float(frechet_distance(x, fitted(real))) == pytest.approx(other, rel=1e-6)


# --- FID: edges ----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0, 1, 3])
@pytest.mark.parametrize("n", [2, 20, 64, 65, 300])
def test_identical_sets_are_at_distance_zero(n, decay):
    x = normal(n, 64) * torch.arange(1, 65).double() ** -decay + 5
    reference = fitted(x)
    assert 0 <= frechet_distance(x, reference) <= 1e-6 * reference.trace


@given(
    n=st.integers(2, 12),
    d=st.integers(1, 6),
    rank=st.integers(0, 6),
    scale=st.sampled_from([1e-30, 1e-8, 1.0, 1e8, 1e30]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_never_negative_and_never_nan(n, d, rank, scale, seed):
    """Any rank, also none: a number, at least the distance of the means, at most what it can be."""
    torch.manual_seed(seed)
    x = scale * (normal(n, rank) @ normal(rank, d) + normal(d))
    reference = fitted(scale * (normal(n + 1, d) if seed % 2 else x + normal(d)))
    value, gap = frechet_distance(x, reference), (x.mean(0) - reference.mean).square().sum()
    variance = x.var(0).sum() + reference.trace
    assert gap * (1 - 1e-6) - 1e-6 * variance <= value <= (gap + variance) * (1 + 1e-12)
    assert value >= 0


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_scale_leaves_the_number_exact(n, scale):
    x, real = normal(n, 40) + 0.3, normal(200, 40)
    plain = float(frechet_distance(x, fitted(real)))
    scaled = float(frechet_distance(x * scale, fitted(real * scale)))
    assert scaled / scale / scale == pytest.approx(plain, rel=1e-9)


def test_huge_float32_features():
    x, real = torch.randn(20, 40) * 1e30, torch.randn(200, 40) * 1e30
    expected = frechet_distance(x.double() / 1e30, fitted(real.double() / 1e30))
    assert float(frechet_distance(x, fitted(real))) == pytest.approx(float(expected) * 1e60)


@pytest.mark.parametrize("n", [5, 50])
def test_constant_features(n):
    """All in one point: the distance of the means and the reference's variance are left."""
    real = normal(100, 8)
    reference, point = fitted(real), normal(8)
    value = frechet_distance(point.expand(n, 8), reference)
    expected = (point - reference.mean).square().sum() + reference.trace
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    assert frechet_distance(point.expand(n, 8), fitted(point.expand(9, 8))) == 0


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (torch.zeros(1, 4), "at least 2"),
        (torch.zeros(0, 4), "at least 2"),
        (torch.zeros(9, 5), r"\(n,4\)"),
        (torch.zeros(4), r"\(n,4\)"),
        (torch.tensor([[1.0, 2, 3, math.nan]] * 9), "a feature is not finite"),
        (torch.tensor([[1.0, 2, 3, 4], [math.inf, 2, 3, 4]]), "a feature is not finite"),
        (torch.eye(4, dtype=torch.float64) * 1e200, "too large"),
    ],
)
def test_what_has_no_distance_is_refused_before_any_linear_algebra(features, says, monkeypatch):
    reference = fitted(normal(50, 4))
    for name in ("eigvalsh", "eigh", "svd"):
        monkeypatch.setattr(torch.linalg, name, lambda *_: pytest.fail("linear algebra"))
    with pytest.raises(ValueError, match=says):
        frechet_distance(features, reference)
    statistics = FeatureStatistics()
    with pytest.raises(ValueError, match=says):
        if "at least" not in says:
            statistics.update(normal(9, 4))
        statistics.update(features)
        statistics.fid(reference)


# --- FID: derivatives ----------------------------------------------------------------------


def central(f, x, v, h=1e-6):
    return (f(x + h * v) - f(x - h * v)) / (2 * h)


DERIVED = {
    "n < d": lambda: (normal(12, 40), normal(200, 40)),
    "n = d": lambda: (normal(40, 40), normal(200, 40)),
    "n > d": lambda: (normal(60, 10), normal(200, 10)),
    "equal eigenvalues": lambda: (
        3 * torch.eye(12, 40).double(),
        exact_set(99, 0, torch.eye(40).double()),
    ),
    "singular reference": lambda: (normal(12, 40), normal(8, 40)),
    "features that are all zero": lambda: (
        normal(60, 10) * torch.tensor([1.0] * 7 + [0.0] * 3),
        normal(200, 10) * torch.tensor([1.0] * 7 + [0.0] * 3),
    ),
    "two equal samples": lambda: (normal(6, 40)[[0, 0, 1, 2, 3, 4, 5]], normal(200, 40)),
}


@pytest.mark.parametrize("case", DERIVED)
def test_derivative_in_reverse_and_forward_mode(case):
    """All of them agree with central differences, also where eigenvalues are zero or equal."""
    x, real = DERIVED[case]()
    reference = fitted(real)

    def f(x):
        return frechet_distance(x, reference)

    tangents = normal(4, *x.shape)
    if case == "features that are all zero":
        tangents = tangents * (x[0] != 0)  # off that subspace the distance has a kink
    if case == "two equal samples":
        tangents[:, 1] = tangents[:, 0]
    expected = torch.stack([central(f, x, v) for v in tangents])
    forward = vmap(lambda v: jvp(f, (x,), (v,))[1])(tangents)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(forward, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((gradient * tangents).sum((1, 2)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n", [4, 50])
def test_derivative_is_finite_where_there_is_none(n):
    """One point, or the reference itself: the kinks and the minimum of the distance."""
    reference = fitted(normal(100, 8))
    for x in (torch.ones(n, 8).double(), torch.zeros(n, 8).double(), normal(1, 8).repeat(n, 1)):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(frechet_distance(leaf, reference), leaf)
        assert gradient.isfinite().all()
        expected = 2 / n * (x[0] - reference.mean)
        torch.testing.assert_close(gradient, expected.expand(n, 8))
    x = normal(n, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(frechet_distance(x, fitted(x.detach())), x)
    assert gradient.abs().max() < 1e-6


def test_derivative_through_the_extractor(mnist):
    """From pixels to FID in float64, as the learned schedule needs it: four tangents at once."""
    reference = fitted(mnist(torch.rand(40, 1, 28, 28) * 2 - 1)[0])
    x, tangents = torch.rand(6, 1, 28, 28).double() * 1.8 - 0.9, normal(4, 6, 1, 28, 28)

    def f(x):
        return frechet_distance(mnist(x)[0], reference)

    expected = torch.stack([central(f, x, v) for v in tangents])
    forward = vmap(lambda v: jvp(f, (x,), (v,))[1])(tangents)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(forward, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close((gradient * tangents).sum((1, 2, 3, 4)), forward)


# --- streaming -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[20], [7, 0, 1, 12], [32, 32], [1] * 33, [100, 5, 3], [40] * 9])
def test_a_stream_is_measured_as_the_whole(sizes):
    reference = fitted(normal(300, 32))
    x = normal(sum(sizes), 32) + 1e4  # a mean that naive sums of squares would lose digits to
    statistics = FeatureStatistics()
    for part in x.split(sizes):
        statistics.update(part)
        assert sum(map(len, statistics.waiting)) <= 32
    assert statistics.n == len(x)
    expected = float(frechet_distance(x, reference))
    assert statistics.fid(reference) == pytest.approx(expected, rel=1e-11)
    mean, cov = statistics.moments()
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(cov, x.T.cov(), rtol=1e-9, atol=1e-10)


def test_a_stream_goes_on_after_it_was_measured():
    x, reference = normal(50, 16), fitted(normal(99, 16))
    statistics = FeatureStatistics()
    for part in x.split(10):
        statistics.update(part)
        if statistics.n > 20:
            statistics.fid(reference), statistics.moments()
    assert statistics.fid(reference) == pytest.approx(float(frechet_distance(x, reference)))
    with pytest.raises(ValueError, match=r"\(n,16\)"):
        statistics.update(normal(3, 15))
    with pytest.raises(ValueError, match="reference has 9"):
        statistics.fid(fitted(normal(99, 9)))


def test_import_needs_none_of_the_other_libraries():
    code = "import sys, metrics; print([m for m in sys.argv[1:] if m in sys.modules])"
    others = ["torchmetrics", "torch_fidelity", "pytorch_fid", "torchvision", "scipy", "sklearn"]
    done = subprocess.run([sys.executable, "-c", code, *others], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
