"""The 2-D data sets of the learning-rate study."""

import csv
from importlib import metadata
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import Stop

DINO_PACKAGE = "data-morph-ai"
# seeds of the points, the same for every run: the paper's moons are those of 42
TRAIN_SEED, HELD_OUT_SEED, REAL_SEED = 42, 43, 44


class PointSet(NamedTuple):
    """Three independent draws of one data set."""

    train: Tensor  # (N,2)
    held_out: Tensor  # (M,2), of the evaluation loss
    real: Tensor  # (N,2), that the KL divergence compares with


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


def load(names: list[str], n: int, n_held_out: int, device) -> dict[str, PointSet]:
    """The points of each set by its name; dino is left out if its package is missing."""
    names = list(names)
    if "dino" in names:
        try:
            dino_points()
        except ImportError as error:
            print(f"dino is left out ({error}): pip install {DINO_PACKAGE} brings its points")
            names.remove("dino")
    if not names:
        raise Stop("no data set is left to train on", code=2)
    draws = ((n, TRAIN_SEED), (n_held_out, HELD_OUT_SEED), (n, REAL_SEED))
    return {
        name: PointSet(
            *(
                torch.tensor(points(name, size, seed), dtype=torch.float32, device=device)
                for size, seed in draws
            )
        )
        for name in names
    }


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
