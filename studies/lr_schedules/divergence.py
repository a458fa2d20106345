"""How far two clouds of points are apart: the KL divergence by nearest neighbours."""

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

K = 5  # the neighbour whose distance counts
# SciPy's trees run on their own threads: one, so that --threads is what a run uses
WORKERS = 1


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(P || Q) in nats from samples p (n,d) and q (m,d), by the k-th nearest neighbours.

    A point of p has its k-th neighbour in p at rho and in q at nu: the densities there are about
    k/((n-1) rho^d) and k/(m nu^d). Where a point is repeated so often that a distance is 0, its
    neighbours within the larger of the two are counted instead: an atom has a mass, no density.
    """
    for name, x in (("p", p), ("q", q)):
        if len(x) <= K or not np.isfinite(x).all():
            raise ValueError(f"{name}: {len(x)} points; more than {K} finite ones are needed")
    in_p, in_q = cKDTree(p), cKDTree(q)
    rho = in_p.query(p, [K + 1], workers=WORKERS)[0][:, 0]  # the first neighbour is itself
    nu = in_q.query(p, [K], workers=WORKERS)[0][:, 0]
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
