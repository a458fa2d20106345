"""Means and deviations over the seeds of a study."""

import statistics

from studies.lr_schedules.paper import NAMES


class Numbers:
    """The values of every metric, by learning-rate schedule and data set."""

    def __init__(self, results: list[dict], timing: list[dict]):
        self.rows = {(r["seed"], r["set"], r["lr_schedule"]): dict(r) for r in results}
        for r in timing:
            times = {"training": r["shared"] + r["own"], "own": r["own"], "sampling": r["sampling"]}
            self.rows[r["seed"], r["set"], r["lr_schedule"]] |= times
        self.sets = sorted({name for _, name, _ in self.rows})
        self.lr_schedules = [s for s in NAMES if any(s == key[2] for key in self.rows)]
        self.seeds = sorted({seed for seed, _, _ in self.rows})
        self.steps = sorted({r["steps"] for r in results})
        self.points = sorted({r["drawn"] for r in timing})

    def values(self, metric: str, lr_schedule: str, name: str) -> list[float]:
        keys = ((seed, name, lr_schedule) for seed in self.seeds)
        return [self.rows[key][metric] for key in keys if key in self.rows]

    def mean(self, metric: str, lr_schedule: str, name: str | None = None) -> float:
        """Over the seeds, and over the sets too if none is named."""
        names = [name] if name else self.sets
        return statistics.fmean(v for s in names for v in self.values(metric, lr_schedule, s))

    def cell(self, metric: str, lr_schedule: str, name: str, form: str) -> str:
        """Mean and standard deviation as text."""
        values = self.values(metric, lr_schedule, name)
        if not values:
            return "–"
        spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):{form}}{spread}"
