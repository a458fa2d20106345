"""The figures of the study, from the rows of its CSV files; the samples from the runs' pictures."""

from pathlib import Path

from common.figures import axes_of, save, subplots

CURVES = {"weighted": "C0", "guided": "C1", "linearised": "C2"}
LABELS = {
    "weighted": "importance-weighted",
    "guided": "guided, direct",
    "linearised": "guided, linearised",
}
MARKED = {  # not the weighted sum, whose r1 is near 0: it would flatten all curves
    "unguided": "P",
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
    for axis, x, y in zip(axes, ("lambda", "lambda", "r2"), ("r1", "r2", "r1"), strict=True):
        for kind, color in CURVES.items():
            if rows := [row for row in curves if row["kind"] == kind]:
                draw_curve(axis, rows, x, y, color)
        for method, marker in MARKED.items():
            rows = [row for row in results if row["method"] == method and row[x] != ""]
            points = [row[x] for row in rows], [row[y] for row in rows]
            if rows:
                axis.scatter(*points, marker=marker, s=22, color="0.3", label=method, zorder=3)
        axis.set(xlabel="λ" if x == "lambda" else f"mean {x}", title=f"mean {y}")
    for axis in axes[:2]:
        axis.set_xscale("log")
    lines, names = axes[2].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize=7)
    save(figure, path)


def draw_curve(axis, rows: list[dict], x: str, y: str, color: str) -> None:
    """A curve over lambda; a guided one has a standard error at each point."""
    rows = sorted(rows, key=lambda row: row["lambda"])
    points = [row[x] for row in rows], [row[y] for row in rows]
    label = LABELS[rows[0]["kind"]]
    if rows[0]["kind"] == "weighted":
        axis.plot(*points, color=color, label=label)
    else:
        errors = [row[f"{y}_se"] for row in rows]
        axis.errorbar(*points, errors, color=color, label=label, marker=".")


def draw_traces(path: Path, traces: list[dict], best: float, low: float) -> None:
    """lambda over the steps of both estimators, each from two starts."""
    figure, (axis,) = axes_of(1, 6.0)
    for estimator, color in (("weighted", "C0"), ("published", "C3")):
        rows = [r for r in traces if r["estimator"] == estimator]
        for i, start in enumerate(sorted({r["start"] for r in rows})):
            of_start = [r for r in rows if r["start"] == start]
            x, y = [r["iteration"] for r in of_start], [r["lambda"] for r in of_start]
            axis.plot(x, y, color=color, label=None if i else f"{estimator} estimator")
    axis.axhline(best, color="0.4", linestyle="--", label="optimum of the weighted curve")
    axis.axhline(low, color="0.4", linestyle=":", label="lower bound (effective samples)")
    axis.set(yscale="log", xlabel="step", ylabel="λ")
    axis.legend(fontsize=8)
    save(figure, path)


def draw_samples(path: Path, pictures: dict[str, Path]) -> None:
    """Sample grids side by side, all from the same starting noise."""
    from PIL import Image

    figure, axes = subplots(1, len(pictures), 3.4, 3.7)
    for axis, (title, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(Image.open(picture))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    save(figure, path)
