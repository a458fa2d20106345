"""The upper level: steps of log lambda along an estimated gradient, between bounds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import Stop, check_finite
from common.run import Run
from studies.reward import estimator

BANK_ESTIMATORS = {
    "weighted": estimator.weighted_gradient,
    "published": estimator.published_gradient,
}


@dataclass(frozen=True)
class Steps:
    """Where lambda starts, how it steps, and how far it may go."""

    lambda0: float
    iterations: int
    step: float
    max_step: float  # of log lambda
    low: float
    high: float


class Descent:
    """log lambda and the number of steps taken; part of a run's checkpoint."""

    def __init__(self, settings: Steps):
        self.settings, self.log_lambda, self.iteration = settings, math.log(settings.lambda0), 0
        self.cpu_seconds = 0.0  # of all steps, over all processes

    @property
    def lam(self) -> float:
        return math.exp(self.log_lambda)

    def step(self, gradient: float) -> None:
        """log lambda <- clip(log lambda - clip(step · lambda · gradient)).

        lambda · gradient is the slope in log lambda; in lambda itself it falls with lambda², and
        steps would crawl.
        """
        s = self.settings
        move = float(np.clip(s.step * self.lam * gradient, -s.max_step, s.max_step))
        bounds = math.log(s.low), math.log(s.high)
        self.log_lambda = float(np.clip(self.log_lambda - move, *bounds))
        self.iteration += 1

    @property
    def at_bound(self) -> str:
        """The bound that lambda sits on, or nothing."""
        s = self.settings
        if math.isclose(self.lam, s.low, rel_tol=1e-6):
            return "lower"
        return "upper" if math.isclose(self.lam, s.high, rel_tol=1e-6) else ""

    def state_dict(self) -> dict:
        names = "log_lambda", "iteration", "cpu_seconds"
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def bounds(
    r2: np.ndarray, min_ess: float, lambda0: float, lambda_max: float
) -> tuple[float, float]:
    """The bounds of lambda: at the lower one `min_ess` effective samples are left."""
    if len(r2) < min_ess:
        raise Stop(f"--bank_samples {len(r2)} is below --min_ess {min_ess:g}", code=2)
    low = estimator.smallest_lambda(r2, min_ess)
    refuse_constant(r2, "lower", "lambda has no effect")
    if low > lambda_max:
        raise Stop(
            f"--lambda_max {lambda_max:g}: its weights leave "
            f"{estimator.effective_samples(r2 / lambda_max):.1f} effective samples of {len(r2)}, "
            f"--min_ess wants {min_ess:g}; that takes a lambda of {low:.4g}", code=2
        )  # fmt: skip
    if lambda0 < low:
        raise Stop(
            f"--lambda0 {lambda0:g}: its weights leave "
            f"{estimator.effective_samples(r2 / lambda0):.1f} effective samples of {len(r2)}, "
            f"--min_ess wants {min_ess:g}; the smallest lambda that has them is {low:.4g}", code=2
        )  # fmt: skip
    return low, lambda_max


def refuse_constant(values: np.ndarray, level: str, consequence: str) -> None:
    """A Stop if a reward does not tell one sample from another."""
    if not np.ptp(values):
        raise Stop(f"the {level} reward is the same for all samples: {consequence}")


def descend(
    run: Run,
    descent: Descent,
    look: Callable[[float], dict],
    cost: Callable[[int], int],
    log_every: int,
) -> float:
    """All steps from wherever the descent stands; `look` returns a row with the gradient."""
    total = descent.settings.iterations
    while descent.iteration < total:
        lam, began = descent.lam, time.process_time()
        row = look(lam)
        check_finite(row["gradient"], "the gradient of lambda")
        descent.step(row["gradient"])
        descent.cpu_seconds += time.process_time() - began
        number = descent.iteration
        columns = {"iteration": number, "lambda": lam, **row, "evaluations": cost(number)}
        run.row("iterations.csv", **columns)
        run.row("timing.csv", iteration=number, seconds=run.seconds())
        if number % log_every == 0 or number in (1, total):
            numbers = {k: v for k, v in columns.items() if v is not None}
            text = ", ".join(f"{k} {v:.5g}" for k, v in numbers.items())
            run.log(f"{text}, seconds {run.seconds():.1f}")
        run.poll()
    if descent.at_bound:
        run.log(f"warning: lambda ends on its {descent.at_bound} bound, {descent.lam:.4g}")
    return descent.lam


def from_bank(name: str, r1: np.ndarray, r2: np.ndarray, gamma: float) -> Callable[[float], dict]:
    """What a step looks at: the gradient and the weighted means from pre-trained samples."""
    gradient_of = BANK_ESTIMATORS[name]

    def look(lam: float) -> dict:
        (row,) = estimator.curve(r1, r2, [lam])
        gradient = gradient_of(r1, r2, lam, gamma)
        return {"gradient": gradient, **{k: row[k] for k in ("ess", "r1", "r2", "kl")}}

    return look
