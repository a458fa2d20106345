"""What a bilevel run tells its user: a row of iterations.csv, a line of the log, warnings."""

import math
from collections.abc import Iterable
from pathlib import Path

from common.families import NAMES
from common.machine import peak_memory
from common.null_band import Band, null_text, within
from common.penalty import Penalty
from common.run import Run
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import SteadySteps
from common.uncoupled import Uncoupled
from scheduler import Schedule

ON_BOUND = 1e-5  # a distance that is none
TESTED = 20  # updates after which slopes are looked at; the running mean is worth fourteen
ROSE = 3.0  # times its lowest value


def report(
    run: Run,
    iteration: int,
    row: dict,
    q: ScheduleOptimizer | SteadySteps,
    fid_n: int,
    warnings: "Warnings",
    penalty: Penalty | Uncoupled,
    echo: bool,
) -> None:
    """The row, the line, and a warning where a flag may need another value."""
    values, bounds, slopes = q.schedule.values(), q.schedule.to_bounds(), q.slopes()
    terms = {}
    coupled = penalty if isinstance(penalty, Penalty) else None
    if coupled:
        for kind, term in zip(("direct", "implicit"), coupled.terms, strict=False):
            pairs = zip(term.gradient.tolist(), term.spread.tolist(), strict=True)
            terms[kind] = dict(zip(values, pairs, strict=True))
    columns = {name: row.get(name) for name in ("loss_y", "loss_z", "fid", "gamma")}
    columns["fid_n"] = fid_n if "fid" in row else None
    if coupled:
        columns |= {name: row.get(name) for name in ("direct_n", "direct_age")}
    columns |= columns_of(values, {"": slopes, **terms}, bool(coupled)) | {"updates": q.count}
    run.row("iterations.csv", iteration=iteration, **columns)

    text = ", ".join(f"{name} {value:.5g}" for name, value in row.items())
    for name, (slope, spread) in slopes.items():
        text += f"; {name} {values[name]:.4g} ({bounds[name]:.2g} to its bound) "
        text += f"slope {with_error(slope, spread)}"
        if terms:
            parts = (f"{kind} {with_error(*each[name])}" for kind, each in terms.items())
            text += f" ({', '.join(parts)})"
    memory = max(peak_memory(run.device).values()) / 2**30
    run.log(f"iteration {iteration}: {text}; {memory:.2f} GiB", echo)
    for warning in warnings.new(penalty, row.get("fid")):
        run.log(f"warning: {warning}")


def with_error(slope: float, error: float) -> str:
    """A slope with its noise, if that is known: what `q.slopes()` gives beside it."""
    return f"{slope:.3g}" + (f"±{error:.2g}" if math.isfinite(error) else "")


def columns_of(values: dict, kinds: dict[str, dict], coupled: bool) -> dict:
    """The schedule, and each slope with its noise; the columns are the same from the first row."""
    names = list(dict.fromkeys([*NAMES, *values]))
    columns = {name: values.get(name) for name in names}
    prefixes = {"": ("grad_", "spread_")}
    if coupled:
        prefixes |= {kind: (f"{kind}_", f"{kind}_spread_") for kind in ("direct", "implicit")}
    for kind, pair in prefixes.items():
        slopes = kinds.get(kind, {})
        for i, prefix in enumerate(pair):
            numbers = {n: slopes[n][i] for n in names if n in slopes}
            known = {n: x for n, x in numbers.items() if math.isfinite(x)}
            columns |= {prefix + n: known.get(n) for n in names}
    return columns


class Warnings:
    """Warnings that another flag value would resolve; parameters that are held get none."""

    def __init__(
        self,
        q: ScheduleOptimizer | SteadySteps,
        upper_gradient: str,
        first: Schedule,
        fids: Iterable[float] = (),
    ):
        """`first` is where the schedule began, `fids` are those at theta_z so far; nan: none."""
        self.q, self.upper_gradient, self.first = q, upper_gradient, first.values()
        self.lowest = min((fid for fid in fids if math.isfinite(fid)), default=math.inf)
        self.moving = [name for name, rate in q.rates.items() if rate > 0]
        self.inside = self._off_bounds()  # those that began at no bound and reached none
        self.given: set[str] = set()

    def _off_bounds(self) -> list[str]:
        bounds = self.q.schedule.to_bounds()
        return [name for name in self.moving if bounds[name] >= ON_BOUND]

    def new(self, penalty: Penalty | Uncoupled, fid: float | None = None) -> list[str]:
        """The warnings that apply now and were not given before; `fid` is F at theta_z."""
        texts = {}
        if fid is not None:
            self.lowest = min(self.lowest, fid)
            if fid > ROSE * self.lowest and self.q.schedule.values() != self.first:
                texts["rose"] = (
                    f"the FID at theta_z is {fid / self.lowest:.1f} times the lowest so far: if a "
                    "step of the schedule took it there, start again with a lower --lr_beta"
                )
        if text := penalty.warning():
            texts[text.split(",")[0]] = text  # without its number
        inside = self._off_bounds()
        if stopped := [name for name in self.inside if name not in inside]:
            self.inside = [name for name in self.inside if name in inside]
            texts[f"bound {stopped}"] = (
                f"{', '.join(stopped)} reached a bound: if its spread_ in iterations.csv exceeds "
                "its grad_, start again with a lower --lr_beta for it"
            )
        if text := self.of_slopes(penalty.flat):
            texts["slopes"] = text
        fresh = {key: text for key, text in texts.items() if key not in self.given}
        self.given |= set(fresh)
        return list(fresh.values())

    def of_slopes(self, flat: bool) -> str | None:
        """Whether dF/dq is 0 (`flat`) or, with AdamW, which moves all the same, noise alone."""
        slopes = [self.q.slopes().get(name, (math.nan, 0.0)) for name in self.moving]
        if not slopes:  # all are held
            return None
        if flat:
            return (
                "dFID/dq is exactly 0, as where every pixel is clipped to black or white: sample "
                "without --no_clip or start at a lower --initial_end (0.98 for cosine and linear)"
            )
        if isinstance(self.q, SteadySteps) or "tested" in self.given or self.q.count < TESTED:
            return None  # the steady rule stands still on noise
        self.given.add("tested")
        if all(abs(slope) < 2 * noise / TESTED**0.5 for slope, noise in slopes):
            flag = "--zo_samples" if self.upper_gradient != "zo" else "--zo_directions"
            exact = ", or --upper_gradient exact" if self.upper_gradient == "zo" else ""
            return (
                f"after {self.q.count} updates no slope of the schedule stands out from its noise: "
                f"raise {flag}{exact}, or the schedule takes a random walk"
            )
        return None


def log_result(
    run: Run, schedule: Schedule, first: Schedule, band: Band, pictures: list[Path], command: str
) -> None:
    """The schedule beside what noise makes of it, where the pictures are, what to do next."""
    run.write_json("null_band.json", band)
    run.log(null_text(schedule, first.values(), band))
    if names := within(schedule, band):
        reason = "no slope stood out from its noise"
        if schedule.values() != first.values():
            reason = f"noise alone takes {', '.join(names)} as far"
        run.log(
            f"warning: {reason}: more updates (--epochs) or more --zo_samples may show a slope, "
            "and a rate of 0 in --lr_beta holds a parameter that has none"
        )
    if pictures:
        run.log(f"pictures: {', '.join(map(str, pictures))}")
    run.log(f"to train with this schedule: {command}")
