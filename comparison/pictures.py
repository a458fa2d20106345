"""The figures of the comparison, from the rows of its CSV files."""

import json
from itertools import product
from pathlib import Path

import numpy as np

from common import figures
from common.families import NAMES
from comparison.rows import JUDGED_BY, REGIMES, SCORES, by_method
from comparison.scales import DRAWN_TAU, FOUR, KNOTS_OF_FEW, METHODS
from model import log_snr
from scheduler import Schedule

# the methods in the figure of schedules, in that of samples and in that of steps
IN_FIGURES = (
    "default",
    "end 0.98",
    "exact",
    "exact, no clipping",
    "exact, late",
    "exact, late, no clipping",
    KNOTS_OF_FEW,
    "schedule alone, no clipping",
    DRAWN_TAU,
    FOUR,
)  # ten, as there are colors
MANY = 50  # from this range on an axis has fewer ticks
WIDE = 100  # from here on terms of a gradient are drawn in logarithms


def plot_curves(path: Path, points: list[dict]) -> None:
    """FID against forward passes: the mean over seeds, the band from the best to the worst."""
    figure, (axis,) = figures.axes_of(1, width=7)
    for i, (method, rows) in enumerate(by_method(points).items()):
        tracks = {}
        for row in rows:
            point = float(row["forward_passes"]), float(row["fid"])
            tracks.setdefault(row["seed"], []).append(point)
        tracks = [np.array(track) for track in tracks.values()]
        low, high = max(k[0, 0] for k in tracks), min(k[-1, 0] for k in tracks)
        x = np.linspace(low, max(low, high), 200)
        # what was known at x: the last point before it
        y = np.array([k[np.searchsorted(k[:, 0], x, side="right") - 1, 1] for k in tracks])
        color, style = _color(method), ("-", "--", ":")[i % 3]  # so that equal lines both show
        axis.plot(x, y.mean(0), style, label=method, color=color)
        axis.fill_between(x, y.min(0), y.max(0), alpha=0.15, color=color)
    axis.set(xlabel="forward passes", ylabel="FID (the run's extractor)", yscale="log")
    _set_plain_ticks(axis.yaxis)
    _legend_beside(axis)
    figures.save(figure, path)


def plot_steps(path: Path, scores: list[dict]) -> None:
    """FID against DDIM steps by three judges: the mean over seeds, the bar from best to worst."""
    figure, axes = figures.subplots(len(REGIMES), len(JUDGED_BY), 4.2, 3.2)
    cases = product(REGIMES.items(), JUDGED_BY)
    for axis, ((clip, regime), judge) in zip(axes.flatten(), cases, strict=True):
        axis.grid(alpha=0.3)
        rows = [row for row in scores if row["clip"] == clip and row[judge]]
        fewest = min((int(row["n"]) for row in rows), default=0)
        rows = [row for row in rows if int(row["n"]) == fewest]
        drawn = [method for method in IN_FIGURES if method in by_method(rows)]
        for i, method in enumerate(drawn):
            of_steps: dict[int, list[float]] = {}
            for row in by_method(rows)[method]:
                of_steps.setdefault(int(row["steps"]), []).append(float(row[judge]))
            steps = sorted(of_steps)
            mean = np.array([np.mean(of_steps[k]) for k in steps])
            low = mean - [min(of_steps[k]) for k in steps]
            high = np.array([max(of_steps[k]) for k in steps]) - mean
            beside = np.array(steps) * 1.03 ** (i - len(drawn) / 2)  # no point hides another
            label = f"{method} ({len(of_steps[steps[0]])})"
            axis.errorbar(
                beside, mean, [low, high], marker="o", capsize=3, color=_color(method), label=label
            )
        axis.set_title(
            f"{SCORES[judge][0].replace('`', '')}\n{fewest} images, {regime}", fontsize=9
        )
        _set_log_scales(axis, sorted({int(row["steps"]) for row in rows}))
    for axis in axes[-1]:
        axis.set_xlabel("DDIM steps")
    _legend_beside(axes[0, -1])
    figures.save(figure, path)


def plot_learned(path: Path, runs: list[dict]) -> None:
    """The schedules that the methods found, a line a seed."""
    methods = [method for method in IN_FIGURES if method in by_method(runs)]
    figure, (axis,) = figures.axes_of(1, width=6)
    for method in methods:
        held = METHODS[method].kind == "train"  # dashed, over those that hardly left it
        for i, row in enumerate(by_method(runs)[method]):
            schedule = Schedule.from_dict(json.loads(row["schedule"]))
            curve = log_snr(schedule.log_alpha_bar().detach())[1:]
            label = None if i else method
            times = np.linspace(0, 1, len(curve))
            style = {"ls": "--", "zorder": 3} if held else {"alpha": 0.7}
            axis.plot(times, curve, color=_color(method), label=label, **style)
    axis.set(xlabel="t/T", title="log SNR")
    if methods:
        _legend_beside(axis)
    figures.save(figure, path)


def plot_slopes(path: Path, rows: list[dict]) -> None:
    """Both terms of dF/dq and their sum, with their medians over the seeds: a row a method."""
    groups = by_method(rows)
    figure, axes = figures.subplots(len(groups), len(NAMES), 3.4, 2.6)
    for of_method, (method, points) in zip(axes, groups.items(), strict=True):
        for axis, name in zip(of_method, NAMES, strict=True):
            x = np.array([int(row["iteration"]) for row in points])
            direct, implicit = (
                np.array([float(row[f"{term}_{name}"]) for row in points])
                for term in ("direct", "implicit")
            )
            terms = {"direct": direct, "implicit": implicit, "sum": direct + implicit}
            for color, (label, y) in zip(("C0", "C1", "black"), terms.items(), strict=True):
                axis.plot(x, y, ".", color=color, alpha=0.3, ms=4)
                medians = [np.median(y[x == at]) for at in np.unique(x)]
                axis.plot(np.unique(x), medians, color=color, label=label)
            axis.axhline(0, color="grey", lw=0.5)
            if max(map(abs, axis.get_ylim())) > WIDE:
                axis.set_yscale("symlog", linthresh=10)
            axis.set_title(f"{method}: {name}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("iteration")
    for axis in axes[:, 0]:
        axis.set_ylabel("dF/dq")
    _legend_beside(axes[0, -1])
    figures.save(figure, path)


def _set_log_scales(axis, xs: list[int]) -> None:
    """Logarithmic axes whose ticks are plain numbers, those of x at the values themselves."""
    from matplotlib.ticker import NullLocator

    axis.set(xscale="log", yscale="log")
    axis.set_xticks(xs, list(map(str, xs)))
    axis.xaxis.set_minor_locator(NullLocator())
    _set_plain_ticks(axis.yaxis)


def _set_plain_ticks(axis) -> None:
    """Of a logarithmic axis: plain numbers, between powers of ten too."""
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    low, high = axis.get_view_interval()
    subs = (1, 1.5, 2, 3, 5, 7) if high / low < MANY else (1, 3)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _color(method: str):
    """A method has one color in all figures; those that only the curves show come after."""
    from matplotlib import colormaps

    if method in IN_FIGURES:
        return f"C{IN_FIGURES.index(method)}"
    others = [name for name in METHODS if METHODS[name].kind in ("bilevel", "search")]
    others = [name for name in others if name not in IN_FIGURES]
    return colormaps["tab20b"](others.index(method) % 20)


def _legend_beside(axis) -> None:
    """To the right of the plot, where it covers no line."""
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
