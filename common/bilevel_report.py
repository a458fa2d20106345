"""What a bilevel run tells its user: a row of iterations.csv, a line of the log, warnings."""

import math

from common.families import NAMES
from common.machine import peak_memory
from common.penalty import Penalty
from common.run import Run
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import SteadySteps
from common.uncoupled import Uncoupled
from scheduler import Schedule


def report(
    run: Run,
    iteration: int,
    row: dict,
    q: ScheduleOptimizer | SteadySteps,
    fid_n: int,
    upper_gradient: str,
    penalty: Penalty | Uncoupled | None = None,
    echo: bool = True,
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
    columns |= columns_of(values, {"": slopes, **terms}, bool(coupled))
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
    for warning in warnings_of(q, bounds, slopes, upper_gradient, coupled):
        run.log(f"warning: {warning}", echo)


def with_error(slope: float, error: float) -> str:
    """A slope with its standard error, if that is known."""
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
            found = {n: slopes[n][i] for n in names if n in slopes}
            known = {n: x for n, x in found.items() if math.isfinite(x)}
            columns |= {prefix + n: known.get(n) for n in names}
    return columns


def warnings_of(q, bounds, slopes, upper_gradient: str, penalty: Penalty | None) -> list[str]:
    """Only what a flag can change: a parameter that is held still has nothing to say."""
    moving = [name for name in slopes if q.rates[name] > 0]
    stuck = [name for name in moving if bounds[name] < 1e-5]
    noisy = [name for name in moving if slopes[name][1] > abs(slopes[name][0])]
    warnings = []
    if penalty:  # its step rule stands still on noise: that needs no warning
        noisy = []
        if penalty.steps and (text := penalty.warning()):
            warnings.append(text)
    if stuck:
        advice = "if it did not start there, a lower --lr_beta may free it"
        warnings.append(f"on the bound: {', '.join(stuck)}; {advice}")
    if noisy:
        advice = "more --zo_samples"
        if upper_gradient == "zo":
            advice += ", more --zo_directions or --upper_gradient exact"
        warnings.append(f"more noise than slope: {', '.join(noisy)}; {advice} may help")
    return warnings


def null_text(schedule: Schedule, band: dict[str, tuple[float, float]], r: float) -> str:
    """The learned schedule beside what noise would have made of the first one."""
    parts = (
        f"{name} {value:.4g} (noise alone: {band[name][0]:.4g} to {band[name][1]:.4g})"
        for name, value in schedule.values().items()
    )
    text = f" (correlation of the noise from one update to the next: {r:.2f})"
    return "learned: " + ", ".join(parts) + text
