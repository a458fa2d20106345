"""The figures of a search: its trials, where it looked, what its Gaussian process expects."""

from pathlib import Path

import numpy as np

from common import figures

BEST = {"marker": "*", "color": "red", "markersize": 12, "linestyle": "none"}
FIRST = {"marker": "s", "markerfacecolor": "none", "markeredgecolor": "black", "markersize": 13}
FIRST |= {"linestyle": "none"}


def plot_search(folder: Path, result, rows: list[dict], first: str | None) -> None:
    """All of them; `first` says what schedule trial 0 has, such as "cosine's default".

    It is None where trial 0 is one like the others, which is not marked then.
    """
    names = [dimension.name for dimension in result.space.dimensions]
    plot_trials(folder / "convergence.png", rows, names, first)
    if len(names) == 1:  # what follows are matrices of plots of pairs
        return
    from skopt import plots  # slow to import

    trial_0 = next((row["parameters"] for row in rows if row["trial"] == 0), None)
    marked = [trial_0[name] for name in names] if trial_0 and first else None
    plots.plot_evaluations(result)
    title = "where the search looked: the first trials are dark, the last ones bright"
    save_matrix(folder / "evaluations.png", marked, first, title, "trials")
    if result.models:
        plots.plot_objective(result, n_points=20, n_samples=100)
        title = "FID as the Gaussian process expects it: low is bright"
        save_matrix(folder / "objective.png", marked, first, title, "FID, mean over the rest")


def plot_trials(path: Path, rows: list[dict], names: list[str], first: str | None) -> None:
    """The FID of each trial, in order and against each parameter."""
    rows = sorted((r for r in rows if r["objective"] is not None), key=lambda row: row["trial"])
    values = np.array([row["objective"] for row in rows])
    xs = {"trial": [row["trial"] for row in rows]}
    xs |= {name: [row["parameters"][name] for row in rows] for name in names}
    figure, axes = figures.wrapped_axes(len(xs))
    for axis, (name, x) in zip(axes, xs.items(), strict=True):
        axis.plot(x, values, "o", color="C0", label="a trial")
        if name == "trial":
            axis.step(x, np.minimum.accumulate(values), where="post", label="best so far")
            axis.xaxis.get_major_locator().set_params(integer=True)
        if first and rows[0]["trial"] == 0:
            axis.plot(x[0], values[0], **FIRST, label=f"trial 0: {first}")
        axis.plot(x[values.argmin()], values.min(), **BEST, label="best")
        axis.set(xlabel=name, title=f"FID of {rows[0]['n']} images")
        axis.ticklabel_format(useOffset=False)
    axes[0].legend(fontsize=7)
    figures.save(figure, path)


def save_matrix(
    path: Path, marked: list[float] | None, first: str | None, title: str, ylabel: str
) -> None:
    """The matrix that scikit-optimize has drawn, with legible numbers, and trial 0 marked."""
    figure, places = figures.current(), {}
    for axis in figure.axes:
        rows, columns, first_cell, _ = axis.get_subplotspec().get_geometry()
        if rows > 1:  # not the empty one that all of them lie in
            places[divmod(first_cell, columns)] = axis
    count = round(len(places) ** 0.5)
    for i in range(count):
        for j in range(i + 1):
            axis = places[i, j]
            axis.xaxis.set_major_locator(_few())
            axis.tick_params(axis="x", top=False, labeltop=False, labelsize=8)
            axis.tick_params(axis="y", labelsize=8)
            if i == j:  # its numbers stand below the last row alone, as in the rest of the matrix
                axis.yaxis.set_major_locator(_few())
                axis.ticklabel_format(axis="y", useOffset=False)
                axis.set_ylabel(ylabel, fontsize=8)
                axis.tick_params(axis="x", labelbottom=i == count - 1, labelrotation=45)
            if marked and i == j:
                axis.axvline(marked[i], color="black", linestyle=":")
            elif marked:
                axis.plot(marked[j], marked[i], **FIRST, clip_on=False)
    handles = [_handle(**BEST, label="best trial")]
    handles += [_handle(**FIRST, label=f"trial 0: {first}")] if marked else []
    figure.legend(handles=handles, loc="upper right", title=title)
    figures.save(figure, path)


def _few():
    from matplotlib.ticker import MaxNLocator  # needs the backend that figures has chosen

    return MaxNLocator(4)


def _handle(**options):
    from matplotlib.lines import Line2D

    return Line2D([], [], **options)
