"""The 2-D data sets of the learning-rate study, and how far two clouds of points are apart."""

import csv
from importlib import metadata

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

DINO_PACKAGE = "data-morph-ai"
NEIGHBOURS = 5
# SciPy's trees run on their own threads: one, so that --threads is what a run uses
WORKERS = 1


def circle(n: int, random: np.random.Generator) -> np.ndarray:
    """16 directions on a circle and its centre: rounding leaves a 5x5 grid before the norm."""
    xy = np.round(random.uniform(-0.5, 0.5, (n, 2)) / 2, 1) * 2
    xy /= np.linalg.norm(xy, axis=1, keepdims=True) + 1e-10
    angle, radius = random.uniform(0, 2 * np.pi, n), random.uniform(0, 0.03, n)
    return 3 * (xy + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def dino(n: int, random: np.random.Generator) -> np.ndarray:
    xy = dino_points()[random.integers(0, 142, n)] + 0.15 * random.standard_normal((n, 2))
    return (xy / [54, 48] - 1) * 4


def line(n: int, random: np.random.Generator) -> np.ndarray:
    """A filled rectangle, in spite of its name."""
    return 4 * random.uniform([-0.5, -1], [0.5, 1], (n, 2))


def moons(n: int, random: np.random.Generator) -> np.ndarray:
    from sklearn.datasets import make_moons  # slow to import, and only needed here

    # the generator's own seed, so that seed 42 gives the very points of scikit-learn's seed 42
    seed = random.bit_generator.seed_seq.entropy
    xy, _ = make_moons(n, noise=0.03, random_state=seed)
    return (xy + 0.3) * [2, 3] - 1


SETS = {"circle": circle, "dino": dino, "line": line, "moons": moons}


def points(name: str, n: int, seed: int) -> np.ndarray:
    """n points of a data set, (n, 2)."""
    return SETS[name](n, np.random.default_rng(seed))


def dino_points() -> np.ndarray:
    """The 142 Datasaurus points, (142, 2); ImportError if the package that has them is missing."""
    # located, not imported: the package's own imports are of no use here
    try:
        package = metadata.distribution(DINO_PACKAGE)
    except metadata.PackageNotFoundError:
        raise ImportError(f"no {DINO_PACKAGE}") from None
    path = package.locate_file("data_morph/data/starter_shapes/dino.csv")
    with open(path) as file:
        xy = np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(file)])
    if xy.shape != (142, 2):
        raise ImportError(f"{path} holds {len(xy)} points, not 142")
    return xy


def kl_divergence(p: np.ndarray, q: np.ndarray, k: int = NEIGHBOURS) -> float:
    """KL(P || Q) in nats from samples p (n,d) and q (m,d), by the k-th nearest neighbours.

    A point of p has its k-th neighbour in p at rho and in q at nu: the densities there are about
    k/((n-1) rho^d) and k/(m nu^d). Where a point is repeated so often that a distance is 0, its
    neighbours within the larger of the two are counted instead: an atom has a mass, no density.
    """
    for name, x in (("p", p), ("q", q)):
        if len(x) <= k or not np.isfinite(x).all():
            raise ValueError(f"{name}: {len(x)} points; more than {k} finite ones are needed")
    in_p, in_q = cKDTree(p), cKDTree(q)
    rho = in_p.query(p, [k + 1], workers=WORKERS)[0][:, 0]  # the first neighbour is itself
    nu = in_q.query(p, [k], workers=WORKERS)[0][:, 0]
    usual = (rho > 0) & (nu > 0)
    ratio = np.empty(len(p))
    ratio[usual] = p.shape[1] * np.log(nu[usual] / rho[usual])
    if not usual.all():
        centres, radius = p[~usual], np.maximum(rho, nu)[~usual]
        near_p, near_q = (
            tree.query_ball_point(centres, radius, return_length=True, workers=WORKERS)
            for tree in (in_p, in_q)
        )
        ratio[~usual] = digamma(near_p - 1) - digamma(near_q)
    return float(ratio.mean() + np.log(len(q) / (len(p) - 1)))
