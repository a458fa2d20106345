"""What a search tries next: points are a pure function of the seed and of the values told."""

import math
import time
import warnings
from contextlib import contextmanager
from itertools import product

import numpy as np

TUNING_ORDER = ("tau", "start", "end", "epsilon")  # a grid's first levels go where they count most


class Points:
    """What to try next: ask for points, tell what they gave."""

    def __init__(self, args, ranges: dict[str, tuple], first: list[dict]):
        self.ranges, self.listed, self.optimizer = ranges, list(first), None
        self.random = np.random.default_rng(args.search_seed)
        self.seconds = 0.0  # the optimizer's own
        self.asked, self.values, self.untold = [], [], []
        left = args.n_calls - len(first)
        if args.strategy == "random":
            self.listed += [self._at_random() for _ in range(left)]
        elif args.strategy == "grid":
            self.listed += [point for point in grid(ranges, left) if point not in first]
        else:
            self.optimizer = gaussian_process(ranges, args.n_initial, args.search_seed)

    def ask(self, k: int) -> list[dict]:
        """The next k points; fewer, or none, when a grid is through."""
        points, self.listed = self.listed[:k], self.listed[k:]
        if self.optimizer and len(points) < k:
            with self._at_work():  # several at once: each takes the ones before for granted
                proposed = self.optimizer.ask(k - len(points))
            points += [dict(zip(self.ranges, map(float, x), strict=True)) for x in proposed]
        for i, point in enumerate(points):
            if point in self.asked:  # the same schedule and seed give the same FID again
                points[i] = self._at_random()
            self.asked.append(points[i])
        return points

    def tell(self, points: list[dict], values: list[float | None]) -> None:
        """What the points gave; None, a failure, counts as the worst value there is."""
        self.values += [value for value in values if value is not None]
        self.untold += zip(points, values, strict=True)
        if self.optimizer and self.values:
            worst = max(self.values)
            xs = [[point[name] for name in self.ranges] for point, _ in self.untold]
            with self._at_work():
                self.optimizer.tell(xs, [worst if v is None else v for _, v in self.untold])
            self.untold = []

    def _at_random(self):
        return {name: self.random.uniform(*limits) for name, limits in self.ranges.items()}

    @contextmanager
    def _at_work(self):
        from threadpoolctl import threadpool_limits

        began = time.monotonic()
        # matrices of tens of rows: a second thread only waits, and may change the last digits
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a kernel at its bounds: few points do that
            yield
        self.seconds += time.monotonic() - began


def fitted(args, ranges: dict[str, tuple], rows: list[dict]):
    """For scikit-optimize's plots: a Gaussian process fitted to all trials of any strategy."""
    points = Points(args, ranges, [])
    points.optimizer = gaussian_process(ranges, 1, args.search_seed)
    rows = sorted(rows, key=lambda row: row["trial"])
    points.tell([row["parameters"] for row in rows], [row["objective"] for row in rows])
    return points.optimizer.get_result()


def gaussian_process(ranges: dict[str, tuple], n_initial: int, seed: int):
    from skopt import Optimizer  # slow to import, and the trials' processes do not need it
    from skopt.space import Real

    space = [Real(low, high, name=name) for name, (low, high) in ranges.items()]
    return Optimizer(space, "GP", n_initial_points=n_initial, random_state=seed, n_jobs=1)


def grid(ranges: dict[str, tuple], budget: int) -> list[dict]:
    """All combinations of evenly spaced levels, as many levels as the budget allows."""
    tuned = [name for name in TUNING_ORDER if name in ranges]
    levels = dict.fromkeys([*tuned, *ranges], 1)
    while True:
        for name in sorted(levels, key=levels.get):  # the coarsest first
            if math.prod(levels.values()) // levels[name] * (levels[name] + 1) <= budget:
                levels[name] += 1
                break
        else:
            break
    axes = []
    for name, (low, high) in ranges.items():
        k = levels[name]
        axes.append(np.linspace(low, high, k).tolist() if k > 1 else [(low + high) / 2])
    points = [dict(zip(ranges, x, strict=True)) for x in product(*axes)]
    return points[:budget]
