"""The figures of the learning-rate study."""

from pathlib import Path

import numpy as np

from common.figures import save, subplots

SMOOTH = 5  # rows of losses.csv: a single batch's loss is noise on top of the curve


def draw_all(folder: Path, numbers, losses, points, sweep) -> None:
    """All figures of the report for which there are numbers."""
    from studies.lr_schedules.report import NAMES

    folder.mkdir(parents=True, exist_ok=True)
    clouds = {}
    for row in points:
        clouds.setdefault((row["set"], row["schedule"]), []).append((row["x"], row["y"]))
    clouds = {key: np.array(cloud) for key, cloud in clouds.items()}
    if clouds:
        draw_grid(folder / "lr_points.png", clouds, numbers, NAMES)
        draw_by_schedule(folder / "lr_points_schedule.png", clouds, numbers, NAMES)
    if losses:
        draw_losses(folder / "lr_losses.png", losses, numbers, NAMES)
    if sweep:
        draw_sweep(folder / "lr_sweep.png", sweep)


def draw_grid(path, clouds, numbers, names) -> None:
    """The generated points of each run: a row a schedule, a column a data set."""
    rows, columns = len(numbers.schedules), len(numbers.sets)
    figure, axes = subplots(rows, columns, 1.7, 1.7)
    for i, schedule in enumerate(numbers.schedules):
        for j, name in enumerate(numbers.sets):
            axis, xy = axes[i][j], clouds[name, schedule]
            axis.scatter(*xy.T, s=1.5, linewidths=0)
            axis.set(xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[], aspect="equal")
        axes[i][0].set_ylabel(names[schedule], fontsize=7)
    for j, name in enumerate(numbers.sets):
        axes[0][j].set_title(name, fontsize=9)
    save(figure, path)


def draw_by_schedule(path, clouds, numbers, names) -> None:
    """A panel a schedule, the data sets side by side in it, over those of the constant rate."""
    figure, axes = subplots(len(numbers.schedules), 1, 7.5, 1.7)
    for axis, schedule in zip(axes[:, 0], numbers.schedules, strict=True):
        for j, name in enumerate(numbers.sets):
            for other, style in (("constant", {"c": "0.8"}), (schedule, {"c": f"C{j}"})):
                if (name, other) in clouds:
                    xy = clouds[name, other] + [10 * j, 0]
                    axis.scatter(*xy.T, s=1.5, linewidths=0, **style)
        axis.set(xlim=(-5, 10 * len(numbers.sets) - 5), ylim=(-5, 5), xticks=[], yticks=[])
        axis.set_title(names[schedule], fontsize=8)
    save(figure, path)


def draw_losses(path, losses, numbers, names) -> None:
    """The training loss over the steps, a panel a data set, of the first seed."""
    losses = [row for row in losses if row["seed"] == numbers.seeds[0]]
    figure, axes = subplots(1, len(numbers.sets), 3.0, 2.8)
    for axis, name in zip(axes[0], numbers.sets, strict=True):
        for schedule in numbers.schedules:
            y = np.array([row[f"{name}/{schedule}"] for row in losses])
            width = min(SMOOTH, len(y))
            smooth = np.convolve(y, np.ones(width) / width, mode="valid")
            x = [row["step"] for row in losses][width - 1 :]
            axis.plot(x, smooth, label=names[schedule], linewidth=1)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("training loss")
    axes[0][-1].legend(fontsize=6)
    save(figure, path)


def draw_sweep(path, sweep) -> None:
    """KL and evaluation loss against the mean rate: one curve, whatever the schedule is called?"""
    figure, axes = subplots(1, 2, 4.5, 3.4)
    first = max(row["lr_mean"] for row in sweep)
    for name in sorted({row["set"] for row in sweep}):
        for k, kind in enumerate(("constant", "step", "exponential", "plateau", "cosine")):
            of_kind = [r for r in sweep if r["set"] == name and r["schedule"].split()[0] == kind]
            x = [r["lr_mean"] / first for r in of_kind]
            for axis, metric in zip(axes[0], ("kl", "loss"), strict=True):
                axis.scatter(
                    x, [r[metric] for r in of_kind], s=18, c=f"C{k}", label=f"{name} {kind}"
                )
    for axis, title in zip(axes[0], ("KL divergence", "evaluation loss"), strict=True):
        axis.set(xscale="log", xlabel="mean rate / first rate", title=title)
        axis.grid(alpha=0.3)
    axes[0][0].set_yscale("log")
    axes[0][1].legend(fontsize=6)
    save(figure, path)
