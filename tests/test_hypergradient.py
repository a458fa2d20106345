"""The coupled penalty against training again at q +- h with the same draws, on a small network."""

import pytest

from benchmarks.problem import STEP, Problem, cosine
from common.penalty import PenaltySettings

STEPS, MEMORY = 150, 50


@pytest.fixture(scope="module")
def problem():
    return Problem(seed=0, train_steps=1200, point="steep")


def test_the_penalty_is_the_true_hypergradient(problem):
    """Both terms in size and direction, and their sum, which the direct term alone reverses."""
    total, direct = problem.truth(STEPS, MEMORY)
    implicit = {name: total[name] - direct[name] for name in STEP}
    settings = PenaltySettings(None, exact_every=5, average_steps=MEMORY, batches=23)
    penalty = problem.penalty(settings, STEPS)
    our_implicit, our_direct = problem.terms(penalty)
    ours = {name: our_implicit[name] + our_direct[name] for name in STEP}
    assert penalty.warning() is None and penalty.gamma > 1e4
    assert cosine(our_implicit, implicit) > 0.98 and cosine(our_direct, direct) > 0.98
    for name in STEP:
        assert our_implicit[name] == pytest.approx(implicit[name], rel=0.25)
        assert ours[name] * total[name] > 0 > ours[name] * direct[name]
    assert cosine(ours, total) > 0.98 and cosine(direct, total) < -0.9
