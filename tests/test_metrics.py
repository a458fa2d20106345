"""The metrics against closed forms, against three other libraries, and at their edges."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jvp, vmap

from common import extractors, inception
from common.classifiers import MnistClassifier, resize
from common.data import Source, fingerprint, to_unit
from common.errors import Stop
from common.extractors import load_extractor, weights_path
from common.judging import Judge, real_batches, reference_statistics
from metrics import FeatureStatistics, Reference, frechet_distance, inception_score, kid

MNIST_WEIGHTS = weights_path("mnist", "mnist", 28)


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


@pytest.fixture(scope="module")
def mnist():
    return load_extractor("mnist", "cpu")


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


# --- Inception Score and KID ---------------------------------------------------------------


def test_inception_score_of_known_probabilities():
    """1 where all images look alike, K where they are sure and spread over K classes."""
    assert inception_score(torch.full((30, 10), 0.1), 3) == pytest.approx((1, 0), abs=1e-6)
    assert inception_score(torch.eye(10).repeat(4, 1), 4) == pytest.approx((10, 0))
    halves = torch.eye(4)[[0, 0, 1, 1, 2, 2, 2, 2]]
    assert inception_score(halves, 2) == pytest.approx((1.5, 0.5))  # the deviation over n, not n-1


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (103, 10), (10, 10), (40, 1)])
def test_inception_score_of_other_libraries(n, splits):
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torchmetrics.image.inception import InceptionScore

    logits = 3 * normal(n, 10)
    mean, std = inception_score(logits.softmax(1), splits)
    other = isc_features_to_metric(logits, splits, shuffle=False)
    assert mean == pytest.approx(other["inception_score_mean"], rel=1e-6)
    assert std == pytest.approx(other["inception_score_std"], rel=1e-6)
    if splits == 1:  # torchmetrics shuffles, which one split does not see
        metric = InceptionScore(feature=torch.nn.Identity(), splits=1)
        metric.update(logits)
        assert mean == pytest.approx(float(metric.compute()[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("probs", "splits", "says"),
    [
        (torch.full((9, 10), 0.1), 10, "10 splits"),
        (torch.full((9, 10), 0.1), 0, "0 splits"),
        (torch.full((9, 10), 0.2), 3, "sum to 1"),
        (torch.tensor([[1.5, -0.5]] * 9), 3, "negative"),
        (torch.full((9, 10), math.nan), 3, "finite"),
    ],
)
def test_inception_score_refuses(probs, splits, says):
    with pytest.raises(ValueError, match=says):
        inception_score(probs, splits)


def test_kid_of_other_libraries():
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(1200, 24) + 0.2, normal(1200, 24)  # more than one block of rows
    other = kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=1200, kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=0, verbose=False,
    )  # fmt: skip
    assert kid(x, y) == pytest.approx(other["kernel_inception_distance_mean"], rel=1e-6)
    assert kid(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-6)


def test_kid_by_hand_with_unequal_numbers():
    """d = 1: k(x,y) = (x·y + 1)³."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0], [-1.0]])
    within_x, within_y = 1.0, (27 + 0 - 1) / 3
    between = (3 * 1 + 8 + 27 + 0) / 6
    assert kid(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kid_has_no_bias_at_small_n():
    """Its mean over many pairs of like sets is 0 within four standard errors; FID's is far off."""
    draws = torch.tensor([kid(normal(10, 4), normal(10, 4)) for _ in range(400)])
    assert draws.mean().abs() < 4 * draws.std() / math.sqrt(len(draws))
    assert (draws < 0).any()


@pytest.mark.parametrize(
    ("x", "says"),
    [(torch.zeros(1, 4), "2 samples"), (torch.full((9, 4), math.inf), "finite"),
     (torch.zeros(9, 3), r"\(n,3\)"), (torch.eye(9, 4).double() * 1e200, "too large")],
)  # fmt: skip
def test_kid_refuses(x, says):
    with pytest.raises(ValueError, match=says):
        kid(x, normal(20, 4))


# --- extractors ----------------------------------------------------------------------------


def test_classifier_is_the_one_its_record_describes(mnist, mnist_dir):
    """At least 99.3 % of MNIST's test images, in at most 1 MB."""
    record = json.loads(MNIST_WEIGHTS.with_suffix(".json").read_text())
    assert MNIST_WEIGHTS.stat().st_size == record["bytes"] <= 1_000_000
    assert record["sha256"].startswith(mnist.weights_hash) and len(mnist.weights_hash) == 16
    source = Source("mnist", mnist_dir)
    pixels, labels = source.images("test"), source.labels("test")
    assert record["data"]["test"] == fingerprint(pixels)
    guess = torch.cat([mnist(x)[1].argmax(1) for x in real_batches(pixels)])
    accuracy = float((guess == labels).double().mean())
    assert accuracy >= 0.993
    assert accuracy == pytest.approx(record["accuracy"], abs=2e-4)


def test_extractor_is_frozen_and_stays_in_eval_mode(mnist):
    holder = torch.nn.ModuleList([mnist]).train()
    assert not any(module.training for module in mnist.modules())
    assert not any(weight.requires_grad for weight in holder.parameters())


def test_extractor_shapes_and_dtypes(mnist):
    x = torch.rand(5, 1, 28, 28) * 2 - 1
    features, probs = mnist(x)
    assert features.shape == (5, mnist.dim) and probs.shape == (5, 10)
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    exact, _ = mnist(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(features, exact.float(), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mnist(x)[0], features, rtol=1e-5, atol=1e-5)


def test_extractor_sees_what_is_saved_and_hides_no_infinity(mnist):
    x = torch.randn(4, 1, 28, 28) * 2
    torch.testing.assert_close(mnist(x)[0], mnist(x.clamp(-1, 1))[0])
    x[2, 0, 3, 4] = math.inf
    assert mnist(x)[0].isfinite().all(1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28)])
def test_extractor_refuses_other_images(mnist, shape):
    with pytest.raises(ValueError, match="float images"):
        mnist(torch.zeros(shape))
    with pytest.raises(ValueError, match="float images"):
        mnist(torch.zeros(4, 1, 28, 28, dtype=torch.uint8))


def test_small_digits_are_framed_like_mnist(mnist):
    """Three in four are recognised, with no training on them."""
    source = Source("digits")
    pixels, labels = source.images("test"), source.labels("test")
    framed = mnist.net.fit(to_unit(pixels))
    assert framed.shape == (360, 1, 28, 28)
    assert (framed[..., :4, :] == -1).all() and (framed[..., 24:] == -1).all()
    assert (mnist(to_unit(pixels))[1].argmax(1) == labels).double().mean() > 0.7


@pytest.mark.parametrize(("size", "side"), [(8, 20), (28, 299), (5, 5), (12, 7)])
def test_resize_is_bilinear(size, side):
    x = normal(2, 1, size, size + 1)
    expected = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x, side), expected)


def test_an_unknown_extractor_is_refused():
    with pytest.raises(ValueError, match="mnist, first, second, pixels, inception"):
        load_extractor("vgg", "cpu")


@pytest.mark.parametrize("damage", ["weights", "no weights", "record", "no record"])
def test_damaged_classifier_is_one_line_that_names_the_file(damage, tmp_path, monkeypatch):
    weights, record = tmp_path / "c.pt", tmp_path / "c.json"
    shutil.copy(MNIST_WEIGHTS, weights)
    shutil.copy(MNIST_WEIGHTS.with_suffix(".json"), record)
    monkeypatch.setattr(extractors, "weights_path", lambda *_: weights)
    load_extractor("mnist", "cpu")
    damaged = record if "record" in damage else weights
    damaged.write_bytes(damaged.read_bytes()[:-9])
    if damage.startswith("no "):
        damaged.unlink()
    with pytest.raises(Stop, match=r"python -m assets\.train_classifier") as stop:
        load_extractor("mnist", "cpu")
    assert str(damaged) in str(stop.value) and "\n" not in str(stop.value)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """The network that pytorch-fid builds, with weights of chance, as a file."""
    import torchvision
    from pytorch_fid import inception

    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torchvision.models.Inception3, "load_state_dict"),
    ):
        net = inception.fid_inception_v3()
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


def test_inception_is_pytorch_fids(inception_file, capsys):
    from pytorch_fid import inception

    extractor = load_extractor("inception", "cpu", str(inception_file))
    assert f"SHA-256 {extractor.weights_hash}" in capsys.readouterr().out
    x = torch.rand(2, 1, 28, 28) * 2 - 1
    features, probs = extractor(x)
    assert features.shape == (2, extractor.dim) == (2, 2048) and probs.shape == (2, 1008)
    state = torch.load(inception_file, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        theirs = inception.InceptionV3().eval()
    expected = theirs((x.expand(-1, 3, -1, -1) + 1) / 2)[0].flatten(1)
    assert expected.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    logits = expected @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(probs, logits.softmax(1), rtol=1e-3, atol=1e-6)


def test_inception_file_that_is_not_one(inception_file, tmp_path):
    missing = tmp_path / "missing.pth"
    renamed = tmp_path / "weights-0123abcd.pth"
    renamed.symlink_to(inception_file)
    text = tmp_path / "text.pth"
    text.write_text("<html>not found</html>")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    says = {missing: "cannot be read", renamed: "its name says 0123abcd", text: "does not hold",
            other: "does not hold"}  # fmt: skip
    for path, reason in says.items():
        with pytest.raises(Stop, match=reason) as stop:
            load_extractor("inception", "cpu", str(path))
        assert str(path) in str(stop.value) and "\n" not in str(stop.value)


def test_inception_without_network_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(Stop, match=r"no network.*--inception_weights.*--extractor mnist") as stop:
        load_extractor("inception", "cpu")
    assert "\n" not in str(stop.value)
    damaged = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    damaged.write_bytes(b"half of it")
    with pytest.raises(Stop, match=r"damaged.*6726825d"):
        load_extractor("inception", "cpu")


def test_inception_forward_and_reverse_mode(inception_file, monkeypatch):
    """On small images, for time: every layer has a forward and a batching rule."""
    monkeypatch.setattr(inception, "INCEPTION_SIDE", 75)
    extractor = load_extractor("inception", "cpu", str(inception_file))
    x, tangents = torch.rand(1, 1, 8, 8) * 1.8 - 0.9, torch.randn(2, 1, 1, 8, 8)
    forward = vmap(lambda v: jvp(lambda x: extractor(x)[0], (x,), (v,))[1])(tangents)
    weight = torch.randn(2048)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(extractor(leaf)[0] @ weight, leaf)
    expected = (gradient * tangents).flatten(1).sum(1)
    assert expected.abs().min() > 0
    torch.testing.assert_close((forward @ weight).flatten(), expected, rtol=1e-3, atol=1e-12)


# --- references, cache, evaluation ---------------------------------------------------------


@pytest.fixture
def cached(mnist, tmp_path):
    """A reference in its cache."""
    reference = reference_statistics(
        Source("digits"), "test", mnist, "cpu", str(tmp_path / "cache")
    )
    (path,) = (tmp_path / "cache").iterdir()
    return reference, path


def again(mnist, path, split="test"):
    return reference_statistics(Source("digits"), split, mnist, "cpu", str(path.parent))


def test_reference_is_that_of_the_images(mnist, cached):
    reference, _ = cached
    x = mnist(to_unit(Source("digits", "").images("test")))[0].double()
    torch.testing.assert_close(reference.mean, x.mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(reference.cov, x.T.cov(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(reference.root @ reference.root.mT, reference.cov)
    assert (reference.n, reference.name) == (360, "digits test, 360 images")
    assert (reference.extractor, reference.weights_hash) == ("mnist", mnist.weights_hash)


def test_cache_saves_the_computation(mnist, cached, monkeypatch):
    reference, path = cached
    monkeypatch.setattr(extractors.Extractor, "forward", lambda *_: pytest.fail("computed again"))
    twin = again(mnist, path)
    assert torch.equal(twin.mean, reference.mean) and torch.equal(twin.cov, reference.cov)
    assert twin.name == reference.name
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        again(mnist, path, "train")


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "swapped", "text"])
def test_damaged_cache_is_computed_again(mnist, cached, damage):
    reference, path = cached
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "swapped":  # a whole npz file, whose numbers are not those that were written
        with np.load(path) as file:
            parts = dict(file)
        np.savez(path, **{**parts, "mean": parts["mean"] + 1})
        content = path.read_bytes()
    else:
        content = {"empty": b"", "cut": content[:-50], "text": b"not an archive"}[damage]
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged.*computed again"):
        twin = again(mnist, path)
    assert torch.equal(twin.cov, reference.cov)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again(mnist, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_cache_of_something_else_is_an_error(mnist, cached):
    _, path = cached
    again(mnist, path, "train")
    (other,) = set(path.parent.iterdir()) - {path}
    shutil.copy(other, path)
    with pytest.raises(Stop, match="split is digits train, not digits test"):
        again(mnist, path)


def test_cache_is_not_used_for_other_weights(mnist, cached):
    _, path = cached
    other = extractors.Extractor("mnist", MnistClassifier(), "0" * 16)
    reference = again(other, path)
    assert len(list(path.parent.iterdir())) == 2 and reference.weights_hash == "0" * 16
    with pytest.raises(ValueError, match="made with mnist 0000"):
        Judge(mnist, reference).score([])


def test_cache_that_cannot_be_written_is_done_without(mnist, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not cached"):
        reference_statistics(
            Source("digits"), "test", mnist, "cpu", str(tmp_path / "file" / "cache")
        )


def test_evaluate_reports_plain_numbers_and_what_they_were_measured_by(mnist, cached):
    reference, _ = cached
    pixels = Source("digits", "").images("test")
    scores = Judge(mnist, reference).score(real_batches(pixels, size=77), splits=5)
    assert json.loads(json.dumps(scores)) == scores
    assert 0 <= scores["fid"] < 1e-4 * float(reference.trace)
    assert 1 < scores["is_mean"] <= 10 and scores["is_std"] > 0
    assert (scores["n"], scores["extractor"]) == (360, "mnist")
    assert scores["reference"] == "digits test, 360 images"
    noise = [torch.randn(90, 1, 8, 8).clamp(-1, 1) for _ in range(2)]
    assert Judge(mnist, reference).score(noise)["fid"] > 10 * (scores["fid"] + 1e-3)


def test_evaluate_refuses_what_it_cannot_measure(mnist, cached):
    reference, _ = cached
    x = torch.rand(12, 1, 8, 8)
    with pytest.raises(ValueError, match="at least 2 samples, not 0"):
        Judge(mnist, reference).score([])
    with pytest.raises(ValueError, match="10 splits needs that many samples, not 6"):
        Judge(mnist, reference).score([x[:6]])
    with pytest.raises(ValueError, match="finite"):
        Judge(mnist, reference).score([x, x * math.nan])


# --- scripts -------------------------------------------------------------------------------


def test_import_needs_none_of_the_other_libraries():
    code = "import sys, metrics; print([m for m in sys.argv[1:] if m in sys.modules])"
    others = ["torchmetrics", "torch_fidelity", "pytorch_fid", "torchvision", "scipy", "sklearn"]
    done = subprocess.run([sys.executable, "-c", code, *others], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_score_of_a_judge_has_kid_of_the_features_themselves(mnist, cached):
    """The same number as from the features in one piece, and no value without a sample."""
    reference, _ = cached
    x = torch.rand(60, 1, 8, 8) * 2 - 1
    scores = Judge(mnist, reference).score(iter(x.split(25)), 1)
    assert scores["kid"] == pytest.approx(kid(mnist(x)[0], reference.sample), rel=1e-12)
    assert len(reference.sample) == 360 and scores["kid"] > 0.01
    bare = dataclasses.replace(reference, sample=None)
    assert Judge(mnist, bare).score([x], 1)["kid"] is None
