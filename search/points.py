"""What a search tries next: points are a pure function of the seed and of the values told."""

import math
import time
import warnings
from contextlib import contextmanager
from itertools import product

import numpy as np

from search.optuna_sampler import OptunaSampler

TUNING_ORDER = ("tau", "start", "end", "epsilon")  # a grid's first levels go where they count most


class Points:
    """What to try next: ask for points, tell what they gave."""

    def __init__(
        self,
        strategy: str,
        n_calls: int,
        n_initial: int,
        search_seed: int,
        ranges: dict[str, tuple[float, float]],
        first: list[dict],
    ):
        """`first` are points to try before the strategy's own; `n_calls` counts them too."""
        self.ranges, self.listed, self.optimizer = ranges, list(first), None
        self.random = np.random.default_rng(search_seed)
        self.seconds = 0.0  # the optimizer's own
        self.asked, self.told, self.values, self.untold = [], [], [], []
        left = n_calls - len(first)
        if strategy == "random":
            self.listed += [self._at_random() for _ in range(left)]
        elif strategy == "grid":
            self.listed += [point for point in grid(ranges, left) if point not in first]
        elif strategy == "optuna":
            self.optimizer = OptunaSampler(ranges, n_initial, search_seed)
        else:
            self.optimizer = gaussian_process(ranges, n_initial, search_seed)

    def ask(self, k: int) -> list[dict]:
        """The next k points; fewer, or none, when the grid is exhausted."""
        points, self.listed = self.listed[:k], self.listed[k:]
        if self.optimizer and len(points) < k:
            with self._at_work():  # several at once: each takes the ones before for granted
                proposed = self._beside_the_pending().ask(k - len(points))
            points += [dict(zip(self.ranges, map(float, x), strict=True)) for x in proposed]
        for i, point in enumerate(points):
            if point in self.asked:  # the same schedule and seed give the same FID again
                points[i] = self._at_random()
            self.asked.append(points[i])
        return points

    def replace(self, trial: int, point: dict) -> None:
        """What a trial has tried, which may be another point than was asked for."""
        if point != self.asked[trial]:
            if isinstance(self.optimizer, OptunaSampler):
                self.optimizer.drop([self.asked[trial][name] for name in self.ranges])
            self.asked[trial] = point

    def tell(self, points: list[dict], values: list[float | None]) -> None:
        """What the points gave; None, a failure, counts as the worst value there is."""
        self.values += [value for value in values if value is not None]
        self.untold += zip(points, values, strict=True)
        self.told += points
        if self.optimizer and self.values:
            worst = max(self.values)
            xs = [[point[name] for name in self.ranges] for point, _ in self.untold]
            with self._at_work():
                self.optimizer.tell(xs, [worst if v is None else v for _, v in self.untold])
            self.untold = []

    def _beside_the_pending(self):
        """The optimizer; a Gaussian process takes points under way for as good as the best."""
        pending = [point for point in self.asked if point not in self.told]
        if not pending or isinstance(self.optimizer, OptunaSampler) or not self.optimizer.models:
            return self.optimizer
        seed = self.optimizer.rng.randint(2**31 - 1)
        liar = self.optimizer.copy(random_state=seed)
        xs = [[point[name] for name in self.ranges] for point in pending]
        liar.tell(xs, [min(self.values)] * len(xs))
        return liar

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


def fitted(ranges: dict[str, tuple], search_seed: int, rows: list[dict]):
    """For scikit-optimize's plots: a Gaussian process fitted to all trials of any strategy."""
    points = Points("bayesian", len(rows), 1, search_seed, ranges, [])
    rows = sorted(rows, key=lambda row: row["trial"])
    points.tell([row["parameters"] for row in rows], [row["objective"] for row in rows])
    return points.optimizer.get_result()


def gaussian_process(ranges: dict[str, tuple], n_initial: int, seed: int):
    from skopt import Optimizer  # slow to import, and the trials' processes do not need it
    from skopt.space import Real

    space = [Real(low, high, name=name) for name, (low, high) in ranges.items()]
    return Optimizer(space, "GP", n_initial_points=n_initial, random_state=seed, n_jobs=1)


def grid_levels(ranges: dict[str, tuple], budget: int) -> dict[str, list[float]]:
    """Evenly spaced levels of each parameter, as many as the budget allows for all combinations."""
    tuned = [name for name in TUNING_ORDER if name in ranges]
    counts = dict.fromkeys([*tuned, *ranges], 1)
    while True:
        for name in sorted(counts, key=counts.get):  # the coarsest first
            if math.prod(counts.values()) // counts[name] * (counts[name] + 1) <= budget:
                counts[name] += 1
                break
        else:
            break
    return {
        name: np.linspace(low, high, counts[name]).tolist()
        if counts[name] > 1
        else [(low + high) / 2]
        for name, (low, high) in ranges.items()
    }


def grid(ranges: dict[str, tuple], budget: int) -> list[dict]:
    """All combinations of the levels; none if there is no budget."""
    combinations = product(*grid_levels(ranges, budget).values())
    return [dict(zip(ranges, x, strict=True)) for x in combinations][:budget]


def grid_trials(ranges: dict[str, tuple], n_calls: int, first: list[dict]) -> int:
    """How many trials a grid makes, `first` among them."""
    points = grid(ranges, n_calls - len(first))
    return len(first) + sum(point not in first for point in points)


def grid_plan(ranges: dict[str, tuple], n_calls: int, first: list[dict]) -> str:
    """Which points a grid tries, and why they are fewer than --n_calls."""
    budget = n_calls - len(first)
    levels = grid_levels(ranges, budget)
    trials = grid_trials(ranges, n_calls, first)
    points = trials - len(first)
    lines = ["the grid has every combination of"]
    lines += [
        f"  {name} {', '.join(f'{value:.5g}' for value in values)}"
        for name, values in levels.items()
    ]
    default = " beside the schedule of trial 0" if first else ""
    lines.append(f"which makes {points} points{default}: {trials} trials")
    if trials < n_calls:
        lines[-1] += (
            f" of --n_calls {n_calls}, since another level of any parameter would exceed it"
            if points == len(grid(ranges, budget))
            else f" of --n_calls {n_calls}, since the schedule of trial 0 is one of the grid's"
        )
    return "\n".join(lines)
