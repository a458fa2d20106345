"""The figures of the study, from the rows of its CSV files."""

from pathlib import Path

from common.figures import axes_of, save

CURVES = {"weighted": "C0", "guided": "C1", "linearised": "C2"}
LABELS = {
    "weighted": "importance-weighted",
    "guided": "guided, direct",
    "linearised": "guided, linearised",
}
AXES = {"lambda": "λ", "r1_gain": "gain in mean r1", "r2_gain": "gain in mean r2"}
MARKED = {  # not the weighted sum, whose r1 is near 0: it would flatten all curves
    "grid": "v",
    "random": "s",
    "bayesian": "D",
    "bilevel": "o",
    "bilevel, published estimator": "x",
    "bilevel, guided estimator": "+",
}


def draw_curves(path: Path, curves: list[dict], results: list[dict]) -> None:
    """Both rewards against lambda, and one against the other; what the methods chose is marked."""
    figure, axes = axes_of(3, 4.6)
    points = chosen_points(results)
    names = ("r1_gain", "r2_gain")
    for axis, x, y in zip(axes, ("lambda", "lambda", names[1]), (*names, names[0]), strict=True):
        for kind, color in CURVES.items():
            if rows := [row for row in curves if row["kind"] == kind]:
                draw_curve(axis, rows, x, y, color)
        for method, marker in MARKED.items():
            at = [(row[x], row[y]) for row in points if row["method"] == method]
            if at:
                axis.scatter(*zip(*at, strict=True), marker=marker, s=22, color="0.3", label=method,
                             zorder=3)  # fmt: skip
        axis.set(xlabel=AXES[x], ylabel=AXES[y])
    for axis in axes[:2]:
        axis.set_xscale("log")
    lines, names = axes[2].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize=7)
    save(figure, path)


def chosen_points(results: list[dict]) -> list[dict]:
    """What each method chose on each seed, with its gains over no guidance on the same noise."""
    plain = {row["seed"]: row for row in results if row["method"] == "unguided"}
    points = []
    for row in results:
        if row["lambda"] != "" and (before := plain.get(row["seed"])):
            gains = {f"{name}_gain": row[name] - before[name] for name in ("r1", "r2")}
            points.append({"method": row["method"], "lambda": row["lambda"], **gains})
    return points


def draw_curve(axis, rows: list[dict], x: str, y: str, color: str) -> None:
    """A curve over lambda with its standard error, a band or bars."""
    rows = sorted(rows, key=lambda row: row["lambda"])
    points = [row[x] for row in rows], [row[y] for row in rows]
    label = LABELS[rows[0]["kind"]]
    if rows[0]["kind"] == "weighted":
        axis.plot(*points, color=color, label=label)
        if x == "lambda":
            low, high = ([r[y] + k * r[f"{y}_se"] for r in rows] for k in (-1, 1))
            axis.fill_between(points[0], low, high, color=color, alpha=0.2, linewidth=0)
    else:
        errors = [row[f"{y}_se"] or 0 for row in rows]  # one seed alone has none
        axis.errorbar(*points, errors, color=color, label=label, marker=".")


def draw_traces(path: Path, traces: list[dict], best: float, low: float) -> None:
    """lambda over the steps of both estimators, each from two starts; both axes logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, (axis,) = axes_of(1, 6.0)
    for estimator, color in (("weighted", "C0"), ("published", "C3")):
        rows = [r for r in traces if r["estimator"] == estimator]
        for i, start in enumerate(sorted({r["start"] for r in rows})):
            of_start = [r for r in rows if r["start"] == start]
            x, y = [r["iteration"] for r in of_start], [r["lambda"] for r in of_start]
            axis.plot(x, y, color=color, label=None if i else f"{estimator} estimator")
    axis.axhline(best, color="0.4", linestyle="--", label="optimum of the weighted curve")
    axis.axhline(low, color="0.4", linestyle=":", label="lower bound (effective samples)")
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="λ")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=8)
    save(figure, path)
