"""The figures of a learned schedule: its path beside the null band, its slopes with their noise."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common import figures
from common.figures import ACROSS, Columns, has, legend, marks, wrapped_axes
from common.null_band import Band
from common.run import Run
from common.sampling import Sampler
from scheduler import Schedule

TERMS = {  # name -> columns of iterations.csv: the value and its noise
    "direct": ("direct_{}", "direct_spread_{}"),
    "implicit": ("implicit_{}", "implicit_spread_{}"),
    "sum": ("grad_{}", "spread_{}"),
}


def leave_figures(
    run: Run, sampler: Sampler, net, first: Schedule, last: Schedule, band: Band
) -> list[Path]:
    """The parameters' path and slopes, the scores, the first and last schedule; their files."""
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    path, scores = run.rows("iterations.csv"), run.rows("scores.csv")
    clock = on_the_clock(scores, run.rows("timing.csv"))
    plot_paths(folder / "path.png", {"": (path, band)}, list(last.q))
    plot_slopes(folder / "slopes.png", {"": path}, list(last.q))
    figures.plot_columns(folder / "iterations.png", "iteration", path, ["loss_y", "loss_z", "fid"])
    figures.plot_columns(folder / "scores.png", "step", scores, ["loss", "fid", "is_mean"])
    figures.plot_columns(folder / "clock.png", "seconds", clock, ["loss", "fid"])
    figures.plot_schedules(folder / "schedule.png", {"first": first, "last": last})
    figures.save_gif(folder / "denoising.gif", sampler.film(net, 36))
    return sorted(folder.iterdir())


def on_the_clock(scores: dict[str, list], timing: dict[str, list]) -> dict[str, list]:
    """Scores with the seconds of their epochs; one of the two tables may lack its first rows."""
    seconds = dict(zip(timing.get("epoch", ()), timing.get("seconds", ()), strict=True))
    return {**scores, "seconds": [seconds.get(e, math.nan) for e in scores.get("epoch", ())]}


def leave_frozen_figures(run: Run, first: Schedule, last: Schedule) -> list[Path]:
    """Of a schedule that was learned on a frozen network, whose gradient is not noisy."""
    folder, columns = run.folder / "figures", run.rows("iterations.csv")
    plot_paths(folder / "path.png", {"": (columns, {})}, list(last.q))
    figures.plot_columns(folder / "iterations.png", "iteration", columns, ["fid"])
    figures.plot_schedules(folder / "schedule.png", {"first": first, "last": last})
    return sorted(folder.iterdir())


def plot_paths(path: Path, runs: Mapping[str, tuple[Columns, Band]], names: Sequence[str]) -> bool:
    """Each parameter over the iterations, a line a run, and null bands; whether there is any."""
    names = [name for name in names if any(has(columns, name) for columns, _ in runs.values())]
    if not names:
        return False
    figure, axes = wrapped_axes(len(names))
    for axis, name in zip(axes, names, strict=True):
        for i, (label, (columns, band)) in enumerate(runs.items()):
            if has(columns, name):
                _plot_path(axis, f"C{i}", label, columns, band, name)
        axis.set(title=name, xlabel="iteration")
        axis.ticklabel_format(useOffset=False, axis="y")
    if any(f"{name}_low" in band for _, band in runs.values() for name in names):
        axes[0].fill_between([], [], [], color="grey", alpha=0.3, label="noise alone, 5 to 95 %")
    legend(axes[0])
    figures.save(figure, path)
    return True


def _plot_path(axis, color: str, label: str, columns: Columns, band: Band, name: str) -> None:
    x, y = np.asarray(columns["iteration"]), np.asarray(columns[name])
    axis.plot(x, y, color=color, label=label or "this run", **marks(y))
    if f"{name}_low" in band and "updates" in columns:
        count = np.nan_to_num(columns["updates"])
        low, high = (
            np.interp(count, band["updates"], band[f"{name}_{side}"]) for side in ("low", "high")
        )
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def plot_slopes(path: Path, runs: Mapping[str, Columns], names: Sequence[str]) -> bool:
    """A row of plots a run: each parameter's slopes, and their noise as bands."""
    runs = {label: c for label, c in runs.items() if any(has(c, f"grad_{n}") for n in names)}
    names = [name for name in names if any(has(c, f"grad_{name}") for c in runs.values())]
    if not names:
        return False
    size = len(runs) * -(-len(names) // ACROSS), min(ACROSS, len(names))
    figure, grid = figures.subplots(*size, 4.2, 3.0)
    for row, (label, columns) in enumerate(runs.items()):
        rows = len(grid) // len(runs)
        axes = grid[row * rows : (row + 1) * rows].flatten()
        for axis, name in zip(axes, names, strict=False):
            _plot_slope(axis, columns, name)
            axis.set(title=f"{label} slope of {name}".strip(), xlabel="iteration")
        for axis in axes[len(names) :]:
            axis.axis("off")
        legend(axes[0])
    figures.save(figure, path)
    return True


def _plot_slope(axis, columns: Columns, name: str) -> None:
    """The running mean of each term, and what is uncertain about it."""
    axis.grid(alpha=0.3)
    axis.axhline(0, color="black", linewidth=0.8)
    reach = []
    for i, (term, (value, spread)) in enumerate(TERMS.items()):
        if not has(columns, value.format(name)):
            continue
        x, y = np.asarray(columns["iteration"]), np.asarray(columns[value.format(name)])
        noise = np.asarray(columns.get(spread.format(name), np.zeros_like(y)))
        noise = np.where(np.isfinite(noise), noise, 0)  # of the first updates it is not known
        axis.plot(x, y, color=f"C{i}", label=label_of(term, columns, name), **marks(y))
        axis.fill_between(x, y - noise, y + noise, color=f"C{i}", alpha=0.2, linewidth=0)
        reach += [*(y - noise), *(y + noise)]
    low, high = np.nanquantile(reach, [0.02, 0.98])  # one wild update would hide the others
    if low < high:
        axis.set_ylim(min(low, 0) - 0.1 * (high - low), max(high, 0) + 0.1 * (high - low))


def label_of(term: str, columns: Columns, name: str) -> str:
    """A term's name, and what its band is."""
    if term != "sum":
        return f"{term} term ± standard error"
    if has(columns, f"direct_{name}"):
        return "running mean of the sum ± standard error"
    return "running mean of the gradient ± standard deviation"
