"""The coupled penalty on data cleaning, where the implicit gradient is known in closed form."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.data_cleaning import (
    CLASSES,
    Cleaning,
    agreement,
    detection,
    hessian,
    probabilities,
)

STEPS = 400


@pytest.fixture(scope="module")
def cleaning(mnist_dir):
    """300 digits of 7x7 pixels, with examples that weigh differently."""
    torch.manual_seed(0)
    problem = Cleaning(mnist_dir, seed=0, n=300, pool=4)
    problem.schedule.q.data.normal_()
    return problem


def test_the_hessian_is_that_of_the_loss():
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, CLASSES, (20,))
    theta, weight = torch.randn(CLASSES, 3, dtype=torch.float64), torch.rand(20).double()

    def loss(theta):
        return weight @ F.cross_entropy(x @ theta.T, y, reduction="none")

    expected = torch.func.hessian(loss)(theta).reshape(3 * CLASSES, 3 * CLASSES)
    torch.testing.assert_close(hessian(x, probabilities(x, theta, y)[0], weight), expected)


def run(cleaning, batch_size, gamma=None, other_batches=False):
    penalty, batches = cleaning.coupled(batch_size, gamma)
    if other_batches:
        penalty.theta_z.batches = cleaning.coupled(batch_size - 1)[1]
    for _ in range(STEPS):
        penalty.step(cleaning, 0)
    return agreement(
        cleaning.implicit(penalty, batches), cleaning.exact(penalty.averages[1].model.module)
    ), penalty


@pytest.mark.parametrize("batch_size, least", [(300, 0.99), (60, 0.95)])
def test_the_penalty_is_the_implicit_gradient(cleaning, batch_size, least):
    found, penalty = run(cleaning, batch_size)
    assert penalty.gamma > 1e3 and penalty.warning() is None
    assert found["cosine"] > least and found["signs"] > 0.9


def test_it_is_not_where_gamma_is_small_or_the_batches_differ(cleaning):
    assert run(cleaning, 60, gamma=1.0)[0]["error"] > 0.5
    assert run(cleaning, 60, other_batches=True)[0]["cosine"] < 0.5


def test_an_exact_gradient_is_the_change_of_the_upper_loss(cleaning):
    """Against training to the end at q +- h along one direction, in float64."""
    torch.manual_seed(1)  # another direction than q itself
    q, z = cleaning.schedule.q.data.clone(), torch.randn(300)

    def upper(h):
        cleaning.schedule.q.data = q + h * z
        net = solved(cleaning)
        return cleaning.validation.cross_entropy(net).mean().item(), net

    slope = (upper(0.1)[0] - upper(-0.1)[0]) / 0.2
    _, net = upper(0.0)
    assert (cleaning.exact(net) @ z.double()).item() == pytest.approx(slope, rel=0.02)


def solved(cleaning):
    """argmin L by Newton's method."""
    net = cleaning.coupled(300)[0].theta_y.net
    x, weight = cleaning.train.x.double(), cleaning.schedule.q.double().sigmoid().detach()
    theta = torch.zeros_like(net.weight, dtype=torch.float64)
    for _ in range(8):
        p, error = probabilities(x, theta, cleaning.train.y)
        slope = (weight[:, None] / len(x) * error).T @ x + 1e-3 * theta
        h = hessian(x, p, weight / len(x)) + 1e-3 * torch.eye(theta.numel(), dtype=x.dtype)
        theta = theta - torch.linalg.solve(h, slope.flatten()).view_as(theta)
    with torch.no_grad():
        net.weight.copy_(theta)
    return net


def test_f1_and_auc_are_those_of_scikit_learn(cleaning):
    q = cleaning.schedule.q.data - 0.5 * cleaning.wrong
    ours = detection(SimpleNamespace(schedule=SimpleNamespace(q=q), wrong=cleaning.wrong))
    assert ours["f1"] == pytest.approx(f1_score(cleaning.wrong, q < 0))
    assert ours["auc"] == pytest.approx(roc_auc_score(cleaning.wrong, -q))
