"""Inception Score and KID against known answers and other libraries."""

import math

import pytest
import torch
from test_metrics import normal

from metrics import FeatureStatistics, inception_score, kid


def test_inception_score_of_known_probabilities():
    """1 where all images look alike, K where they are sure and spread over K classes."""
    assert inception_score(torch.full((30, 10), 0.1), 3) == pytest.approx((1, 0), abs=1e-6)
    assert inception_score(torch.eye(10).repeat(4, 1), 4) == pytest.approx((10, 0))
    halves = torch.eye(4)[[0, 0, 1, 1, 2, 2, 2, 2]]
    assert inception_score(halves, 2) == pytest.approx((1.5, 0.5))  # the deviation over n, not n-1


def test_confidence_is_the_mean_of_the_largest_probability():
    statistics = FeatureStatistics()
    for probs in ([[0.9, 0.1]], [[0.5, 0.5], [0.4, 0.6]]):
        statistics.update(normal(len(probs), 3), torch.tensor(probs))
    assert statistics.confidence() == pytest.approx(2 / 3)


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
