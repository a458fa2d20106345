"""The figures of the study, from the rows of its CSV files."""

from pathlib import Path

import numpy as np

from common.figures import save, subplots
from studies.lr_schedules.numbers import Numbers
from studies.lr_schedules.paper import NAMES

SMOOTH = 5  # rows of losses.csv: a single batch's loss is noise on top of the curve
COLORS = {name: f"C{i}" for i, name in enumerate(NAMES)}  # a schedule has one in every figure
MARKERS = "os^Dv"  # a data set each

Clouds = dict[tuple[str, str], np.ndarray]  # (set, lr_schedule): points (n,2)


def draw_all(
    folder: Path, numbers: Numbers, losses: list[dict], points: list[dict], sweep: list[dict]
) -> None:
    """All figures of the report for which there are numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    if points:
        clouds = clouds_of(points)
        draw_grid(folder / "lr_points.png", clouds, numbers)
        draw_over_constant(folder / "lr_points_schedule.png", clouds, numbers)
    if losses:
        draw_losses(folder / "lr_losses.png", losses, numbers)
    if sweep:
        draw_sweep(folder / "lr_sweep.png", sweep)


def clouds_of(rows: list[dict]) -> Clouds:
    clouds = {}
    for row in rows:
        clouds.setdefault((row["set"], row["lr_schedule"]), []).append((row["x"], row["y"]))
    return {key: np.array(cloud) for key, cloud in clouds.items()}


def draw_grid(path: Path, clouds: Clouds, numbers: Numbers) -> None:
    """The generated points of each run: a row a schedule, a column a data set."""
    figure, axes = subplots(len(numbers.lr_schedules), len(numbers.sets), 1.7, 1.7)
    for i, lr_schedule in enumerate(numbers.lr_schedules):
        for axis, name in zip(axes[i], numbers.sets, strict=True):
            axis.scatter(*clouds[name, lr_schedule].T, s=1.5, linewidths=0, c=COLORS[lr_schedule])
            axis.set(xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[], aspect="equal")
        axes[i][0].set_ylabel(NAMES[lr_schedule], fontsize=7)
    for axis, name in zip(axes[0], numbers.sets, strict=True):
        axis.set_title(name, fontsize=9)
    save(figure, path)


def draw_over_constant(path: Path, clouds: Clouds, numbers: Numbers) -> None:
    """A panel a schedule, the data sets side by side in it, over those of the constant rate."""
    figure, axes = subplots(len(numbers.lr_schedules), 1, 7.5, 1.7)
    for axis, lr_schedule in zip(axes[:, 0], numbers.lr_schedules, strict=True):
        layers = (("constant", "0.6", 9), (lr_schedule, COLORS[lr_schedule], 1.5))
        for j, name in enumerate(numbers.sets):
            for other, color, size in layers:
                if (name, other) in clouds:
                    points = clouds[name, other] + [10 * j, 0]
                    axis.scatter(*points.T, s=size, linewidths=0, c=color)
        axis.set(xlim=(-5, 10 * len(numbers.sets) - 5), ylim=(-5, 5), yticks=[], aspect="equal")
        axis.set_xticks([10 * j for j in range(len(numbers.sets))], numbers.sets, fontsize=7)
        axis.set_title(NAMES[lr_schedule], fontsize=8)
    save(figure, path)


def draw_losses(path: Path, losses: list[dict], numbers: Numbers) -> None:
    """The training loss over the steps, a panel a data set: the seeds' mean and their range."""
    figure, axes = subplots(1, len(numbers.sets), 3.0, 2.8)
    for axis, name in zip(axes[0], numbers.sets, strict=True):
        for lr_schedule in numbers.lr_schedules:
            steps, curves = smoothed(losses, f"{name}/{lr_schedule}", numbers.seeds)
            color = COLORS[lr_schedule]
            axis.plot(steps, curves.mean(0), label=NAMES[lr_schedule], linewidth=1, color=color)
            axis.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("training loss")
    legend_beside(figure, axes[0][0])
    save(figure, path)


def smoothed(losses: list[dict], column: str, seeds: list) -> tuple[np.ndarray, np.ndarray]:
    """Steps (n,) and running means of the loss (seeds,n)."""
    of_seeds = [[row for row in losses if row["seed"] == seed] for seed in seeds]
    of_seeds = [rows for rows in of_seeds if rows]
    y = np.array([[row[column] for row in rows] for rows in of_seeds])
    width = min(SMOOTH, y.shape[1])
    window = np.ones(width) / width
    steps = np.array([row["step"] for row in of_seeds[0]])[width - 1 :]
    return steps, np.array([np.convolve(line, window, mode="valid") for line in y])


def draw_sweep(path: Path, sweep: list[dict]) -> None:
    """KL and loss against the mean rate: one curve, whatever the schedule is called?"""
    figure, axes = subplots(1, 2, 4.5, 3.4)
    first = max(row["lr_mean"] for row in sweep)
    sets = sorted({row["set"] for row in sweep})
    for name, marker in zip(sets, MARKERS, strict=False):
        for kind, color in COLORS.items():
            rows = [r for r in sweep if r["set"] == name and r["lr_schedule"].split()[0] == kind]
            x = [r["lr_mean"] / first for r in rows]
            for axis, metric in zip(axes[0], ("kl", "loss"), strict=True):
                y = [r[metric] for r in rows]
                label = f"{name}, {NAMES[kind]}"
                axis.scatter(x, y, s=18, c=color, marker=marker, label=label)
    for axis, title in zip(axes[0], ("KL divergence", "evaluation loss"), strict=True):
        axis.set(xscale="log", xlabel="mean rate / first rate", title=title)
        axis.grid(alpha=0.3)
    axes[0][0].set_yscale("log")
    legend_beside(figure, axes[0][0])
    save(figure, path)


def legend_beside(figure, axis) -> None:
    """One legend for all panels, at the right of them: over no data."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
