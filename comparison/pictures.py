"""The figures of the comparison, from the rows of its CSV files."""

from pathlib import Path

import numpy as np

from common import figures
from common.families import FAMILIES
from comparison.report import by_method
from scheduler import Schedule

# the methods in the figure of schedules and in that of samples
DRAWN = ("default", "bayesian", "bilevel zo", "bilevel forward", "recipe paper")


def plot_curves(path: Path, points: list[dict]) -> None:
    """FID against forward passes: the mean over seeds, the band from the best to the worst."""
    figure, (axis,) = figures.axes_of(1, width=7)
    colors = _distinct_colors(len(by_method(points)))
    for color, (method, rows) in zip(colors, by_method(points).items(), strict=True):
        tracks = {}
        for row in rows:
            point = float(row["forward_passes"]), float(row["fid"])
            tracks.setdefault(row["seed"], []).append(point)
        tracks = [np.array(track) for track in tracks.values()]
        low, high = max(k[0, 0] for k in tracks), min(k[-1, 0] for k in tracks)
        x = np.linspace(low, max(low, high), 200)
        # what was known at x: the last point before it
        y = np.array([k[np.searchsorted(k[:, 0], x, side="right") - 1, 1] for k in tracks])
        axis.plot(x, y.mean(0), label=method, color=color)
        axis.fill_between(x, y.min(0), y.max(0), alpha=0.15, color=color)
    axis.set(xlabel="forward passes", title="FID", yscale="log")
    _legend_beside(axis)
    figures.save(figure, path)


def plot_learned(path: Path, rows: list[dict]) -> None:
    """The schedules that the methods found, a line a seed."""
    methods = [method for method in DRAWN if method in by_method(rows)]
    figure, (axis,) = figures.axes_of(1, width=6)
    for color, method in enumerate(methods):
        for i, row in enumerate(by_method(rows)[method]):
            values = {name: float(row[name]) for name in FAMILIES["cosine"]}
            curve = Schedule("cosine", 200, **values).alpha_bar().detach()
            label = None if i else method
            times = np.linspace(0, 1, len(curve))
            axis.plot(times, curve, color=f"C{color}", label=label, alpha=0.7)
    axis.set(xlabel="t/T", title="alpha_bar")
    if methods:
        _legend_beside(axis)
    figures.save(figure, path)


def plot_samples(path: Path, folders: dict[str, Path]) -> None:
    """Sample grids side by side; `folders` are those of runs, with their last picture."""
    from matplotlib import image

    figure, axes = figures.axes_of(len(folders))
    for axis, (method, folder) in zip(axes, folders.items(), strict=True):
        axis.imshow(image.imread(max((folder / "samples").glob("epoch_*.png"))))
        axis.set(title=method)
        axis.axis("off")
    figures.save(figure, path)


def _distinct_colors(n: int) -> list:
    from matplotlib import colormaps

    return [colormaps["tab20"](i % 20) for i in range(n)]


def _legend_beside(axis) -> None:
    """To the right of the plot, where it covers no line."""
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
