"""The family of knots: its curve, and its defaults and ranges for any number of knots."""

import math

import numpy as np
import pytest
import torch

from common.families import knots_table
from scheduler import Schedule


def test_knots_are_linear_in_log_snr():
    """Against numpy's own interpolation, with knots that are no visited times."""
    rises, T = np.array([1.0, 0.3, 2.0, 0.05, 1.5]), 37
    schedule = Schedule(
        "knots", T, start=-7, end=6, **{f"knot_{k}": r for k, r in enumerate(rises.tolist(), 1)}
    )
    knots = -7 + 13 * np.concatenate([[0], rises.cumsum()]) / rises.sum()
    level = np.interp(np.arange(T + 1) / T, np.linspace(0, 1, 6), knots)
    ab = schedule.alpha_bar().detach().numpy()
    assert ab[0] == 1
    np.testing.assert_allclose(np.log((1 - ab[1:]) / ab[1:]), level[1:], rtol=1e-9)


def test_only_the_ratio_of_rises_counts():
    one, two = (
        Schedule("knots", 50, knot_1=k, knot_2=3 * k, knot_3=2 * k).alpha_bar() for k in (1.0, 7.0)
    )
    torch.testing.assert_close(one, two)
    assert len(Schedule("knots", 50).values()) == 2 + 12


@pytest.mark.parametrize("count", [2, 5, 12, 40])
def test_knots_are_by_default_those_of_the_default(count):
    knots = Schedule("knots", 120, **dict.fromkeys(knots_table(count)))
    t = [120 * k // count for k in range(1, count)]
    there = Schedule("cosine", 120).alpha_bar()[t]
    inside = (1 - there) / there < math.exp(10)
    assert inside.sum() >= count - 2
    torch.testing.assert_close(knots.alpha_bar()[t][inside], there[inside])
    last = knots.alpha_bar()[-1].item()
    assert last == pytest.approx(1 / (1 + math.exp(10)))


def test_a_knot_is_searched_around_its_default():
    for p in (p for count in range(1, 1001) for p in knots_table(count).values()):
        assert p.low <= p.search[0] < p.search[1] <= p.high
        assert p.search[0] <= p.default <= p.search[1]
    assert knots_table(4)["knot_2"].search == pytest.approx(
        [factor * knots_table(4)["knot_2"].default for factor in (0.3, 3)]
    )


def test_one_knot_is_a_log_snr_linear_in_time():
    ab = Schedule("knots", 50, knot_1=None).alpha_bar().detach().numpy()
    level = np.log((1 - ab[1:]) / ab[1:])
    np.testing.assert_allclose(level, -10 + 20 * np.arange(1, 51) / 50, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["cosine", "linear", "sigmoid"])
def test_a_schedule_as_knots_agrees_at_the_knots(family):
    schedule = Schedule(family, 120)
    knots = schedule.as_knots(12)
    t = list(range(10, 121, 10))
    torch.testing.assert_close(knots.alpha_bar()[t], schedule.alpha_bar()[t], rtol=1e-4, atol=1e-8)
