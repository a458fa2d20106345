"""Optuna's Gaussian process behind the two methods of scikit-optimize's optimizer."""

from common.optional import optional


class OptunaSampler:
    """ask and tell; points that are under way count as running trials of the study."""

    def __init__(self, ranges: dict[str, tuple[float, float]], n_initial: int, seed: int):
        self.optuna = optional("optuna", "--strategy optuna")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        uniform = self.optuna.distributions.FloatDistribution
        self.space = {name: uniform(low, high) for name, (low, high) in ranges.items()}
        sampler = self.optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_initial)
        self.study = self.optuna.create_study(sampler=sampler)
        self.running: dict[tuple, int] = {}  # point -> number of its trial in the study

    def ask(self, k: int) -> list[list[float]]:
        """The next k points."""
        points = []
        for _ in range(k):
            trial = self.study.ask(self.space)
            points.append([trial.params[name] for name in self.space])
            self.running[tuple(points[-1])] = trial.number
        return points

    def drop(self, x: list[float]) -> None:
        """A point that is not tried after all."""
        if tuple(x) in self.running:
            failed = self.optuna.trial.TrialState.FAIL
            self.study.tell(self.running.pop(tuple(x)), state=failed)

    def tell(self, xs: list[list[float]], values: list[float]) -> None:
        """What the points gave; among them may be points that were not asked for."""
        for x, value in zip(xs, values, strict=True):
            if tuple(x) in self.running:
                self.study.tell(self.running.pop(tuple(x)), value)
            else:
                params = dict(zip(self.space, x, strict=True))
                self.study.add_trial(
                    self.optuna.trial.create_trial(
                        params=params, distributions=self.space, value=value
                    )
                )
