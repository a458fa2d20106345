"""The study's data sets, and the divergence between two clouds of points."""

import numpy as np
import pytest

from studies.lr_schedules import points
from studies.lr_schedules.divergence import kl_divergence


def gaussians(n, m, mean, scale, d=2):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)), mean + scale * rng.standard_normal((m, d))


@pytest.mark.parametrize(
    ("n", "m", "mean", "scale"),
    [(8000, 8000, 0, 1), (20000, 4000, 0.5, 1), (4000, 20000, 0, 2), (9000, 3000, 0.5, 1.5)],
)
def test_the_divergence_of_gaussians_is_the_known_one(n, m, mean, scale):
    p, q = gaussians(n, m, mean, scale)
    known = 2 * (np.log(scale) + (1 + mean**2) / (2 * scale**2) - 0.5)
    assert kl_divergence(p, q) == pytest.approx(known, abs=0.06)


def test_the_divergence_of_repeated_points_is_that_of_their_masses():
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    p_mass, q_mass = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    p, q = places[rng.choice(3, 6000, p=p_mass)], places[rng.choice(3, 2500, p=q_mass)]
    known = (p_mass * np.log(p_mass / q_mass)).sum()
    assert kl_divergence(p, q) == pytest.approx(known, abs=0.05)


def test_some_repeated_points_leave_the_divergence_finite_and_near():
    p, q = gaussians(6000, 2000, 0.5, 1)
    p[:20], q[:10] = p[0], p[0]
    assert kl_divergence(p, q) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((10, 2), np.nan)])
def test_too_few_or_non_finite_points_are_an_error(bad):
    good = np.random.default_rng(0).standard_normal((50, 2))
    for p, q, name in ((bad, good, "p"), (good, bad, "q")):
        with pytest.raises(ValueError, match=f"^{name}:"):
            kl_divergence(p, q)


def test_the_data_sets_are_where_their_formulas_put_them():
    circle, line, moons = (points.points(name, 5000, 42) for name in ("circle", "line", "moons"))
    radius = np.linalg.norm(circle, axis=1)
    centre = radius < 0.1
    assert np.all((np.abs(radius - 3) <= 0.0901) | (radius <= 0.0901))
    # of the length .5 that is rounded, .1 goes to 0: a fifth, and squared for both coordinates
    assert centre.mean() == pytest.approx(0.04, abs=0.01)
    angles = np.degrees(np.arctan2(*circle[~centre].T)) % 360
    assert len(set((angles / 2).round().astype(int) % 180)) <= 16 * 3
    assert np.all(np.abs(line) <= [2, 4])
    assert line.std(axis=0) == pytest.approx(np.array([4, 8]) / 12**0.5, rel=0.03)
    from sklearn.datasets import make_moons

    theirs, _ = make_moons(5000, noise=0.03, random_state=42)
    assert np.array_equal(moons, (theirs + 0.3) * [2, 3] - 1)
    assert np.array_equal(points.points("line", 100, 1), points.points("line", 100, 1))
    assert not np.array_equal(points.points("line", 100, 1), points.points("line", 100, 2))


def test_dino_scatters_the_142_points():
    pytest.importorskip("data_morph")
    xy = points.dino_points()
    assert xy.mean(axis=0) == pytest.approx([54.26, 47.83], abs=0.01)  # Datasaurus, as published
    assert xy.std(axis=0, ddof=1) == pytest.approx([16.77, 26.94], abs=0.01)
    drawn = (points.points("dino", 20000, 0) / 4 + 1) * [54, 48]
    gap = drawn[:, None] - xy[None]
    nearest = gap[np.arange(len(drawn)), (gap**2).sum(axis=2).argmin(axis=1)]
    assert nearest.std() == pytest.approx(0.15, rel=0.05)
