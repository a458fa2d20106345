"""Both rewards against lambda, and lambda against the steps, from the runs of the study."""

from collections.abc import Sequence

import numpy as np

from common.tables import mean_and_error, read_csv
from studies.reward import estimator
from studies.reward.tasks import BILEVEL, GRID, LINEARISED, METHODS, STARTS, Task

POINTS = 120  # of the importance-weighted curve
COLUMNS = (
    "kind", "lambda", "r1", "r1_se", "r2", "r2_se", "r1_gain", "r1_gain_se", "r2_gain",
    "r2_gain_se", "seeds", "n", "ess", "kl",
)  # fmt: skip


def of_rewards(tasks: list[Task]) -> list[dict]:
    """Both rewards against lambda: by the importance weights of all seeds, and in guided runs."""
    rows = [{"kind": "weighted", **row} for row in weighted(tasks)]
    for kind, method in (("guided", GRID), ("linearised", LINEARISED)):
        trials = [read_csv(t.folder / "trials.csv") for t in tasks if t.method == method]
        rows += [{"kind": kind, **row} for row in guided(trials)]
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows]


def weighted(tasks: list[Task]) -> list[dict]:
    """The importance-weighted curve from the samples of all seeds together."""
    leaders = [task for task in tasks if task.method == BILEVEL]
    bank = [row for task in leaders for row in read_csv(task.folder / "bank.csv")]
    values = {name: np.array([row[name] for row in bank]) for name in ("r1", "r2")}
    args, r2 = leaders[0].parsed(), values["r2"]
    low = estimator.smallest_lambda(r2, args.min_ess)
    rows = estimator.curve(values["r1"], r2, estimator.grid(low, args.lambda_max, POINTS))
    for row in rows:
        row |= {"seeds": len(leaders), "n": len(r2)}
        for name, r in values.items():
            # first order in the weights: the error of a ratio of means
            influence = estimator.weights(r2 / row["lambda"]) * (r - row[name])
            row[f"{name}_se"] = float(np.linalg.norm(influence))
            row[f"{name}_gain"] = row[name] - float(r.mean())
            row[f"{name}_gain_se"] = float(np.linalg.norm(influence - (r - r.mean()) / len(r)))
    return rows


def guided(trials: Sequence[list[dict]]) -> list[dict]:
    """A guided curve: at each lambda the mean over the seeds, a list of trials each.

    A gain is over the same seed's trial at the largest lambda, from the same noise, where next to
    nothing guides: their difference has less noise than each.
    """
    rows = []
    for same in zip(*trials, strict=True):
        row = {"lambda": same[0]["lambda"], "seeds": len(same), "n": sum(t["n"] for t in same)}
        for name in ("r1", "r2"):
            row[name], error = mean_and_error([trial[name] for trial in same])
            row[f"{name}_se"] = same[0][f"{name}_se"] if error is None else error  # of images
            last = [max(seed, key=lambda trial: trial["lambda"])[name] for seed in trials]
            gains = [trial[name] - base for trial, base in zip(same, last, strict=True)]
            row[f"{name}_gain"], error = mean_and_error(gains)
            row[f"{name}_gain_se"] = "" if error is None else error
        rows.append(row)
    return rows


def of_descents(tasks: list[Task]) -> list[dict]:
    """lambda before each step, thinned, of seed 0's descents on the same samples."""
    rows = []
    for task in tasks:
        descent = task.method in METHODS or task.method in STARTS
        if task.seed or not descent or not (task.folder / "iterations.csv").exists():
            continue
        steps = read_csv(task.folder / "iterations.csv")
        columns = ("iteration", "lambda", "gradient", "ess", "r1", "r2", "kl")
        steps = steps if len(steps) < 100 else steps[::5]
        about = {"estimator": task.summary["estimator"], "start": steps[0]["lambda"]}
        rows += [about | {name: step[name] for name in columns} for step in steps]
    return rows
