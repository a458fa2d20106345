"""Search for lambda, or for the weight of a weighted sum: a trial is a batch of guided images."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.machine import peak_memory
from common.run import Run
from common.tables import write_csv
from search.ledger import Ledger
from search.points import Points
from studies.reward.rewards import mean_and_error_of

N_INITIAL = 4  # random points of the Bayesian search
STRATEGY = {"grid": "grid", "random": "random", "bayesian": "bayesian", "weighted_sum": "grid"}


@dataclass(frozen=True)
class Trial:
    """What a trial is made of: images for (lambda, weight), their rewards, what they cost."""

    images: Callable[[float, float], Tensor]
    upper: Callable[[Tensor], Tensor]
    lower: Callable[[Tensor], Tensor]
    n: int
    evaluations: int


def search(
    run: Run,
    method: str,
    limits: tuple[float, float],
    n_calls: int,
    seed: int,
    trial: Trial,
    lambda0: float,
) -> tuple[dict, float]:
    """Try points in the logarithm; the row of the largest mean r1, and the CPU seconds."""
    ledger = Ledger(run.folder / "search.jsonl", run.log)
    run.elapsed = max((row["at"] for row in ledger.rows.values()), default=0.0)
    name = "weight" if method == "weighted_sum" else "lambda"
    space = {f"log_{name}": (math.log(limits[0]), math.log(limits[1]))}
    points = Points(STRATEGY[method], n_calls, min(N_INITIAL, n_calls), seed, space, [])
    for i in range(n_calls):
        (asked,) = points.ask(1)
        point = ledger.known(i, asked)
        if i not in ledger.rows:
            value = math.exp(point[f"log_{name}"])
            lam, weight = (lambda0, value) if name == "weight" else (value, 0.0)
            row = tried(run, trial, lam, weight) | {"trial": i, "parameters": point, "seed": seed}
            ledger.add(row)
            run.log(f"trial {i}: {name} {value:.4g}, r1 {row['r1']:.4f}, r2 {row['r2']:.4f}")
            run.poll()
        if i + 1 < n_calls:
            points.tell([point], [ledger.rows[i]["objective"]])
    rows = [ledger.rows[i] for i in sorted(ledger.rows)]
    columns = ("trial", "lambda", "weight", "r1", "r1_se", "r2", "r2_se", "n")
    write_csv(run.folder / "trials.csv", [{k: row[k] for k in columns} for row in rows])
    seconds = points.seconds + sum(row["cpu_seconds"] for row in rows)
    return min(rows, key=lambda row: row["objective"]), seconds


def tried(run: Run, trial: Trial, lam: float, weight: float) -> dict:
    """One trial's row of the ledger."""
    began, cpu = time.monotonic(), time.process_time()
    images = trial.images(lam, weight)
    with torch.no_grad():
        r1, r2 = (mean_and_error_of(reward(images)) for reward in (trial.upper, trial.lower))
    return {
        "status": "ok", "reason": None, "objective": -r1[0], "n": trial.n, "half": None,
        "lambda": lam, "weight": weight,
        "r1": r1[0], "r1_se": r1[1], "r2": r2[0], "r2_se": r2[1],
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3), "at": round(run.seconds(), 3),
        "network_evaluations": {"guidance": trial.evaluations},
        "peak_memory": peak_memory(run.device),
    }  # fmt: skip
