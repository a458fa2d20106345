"""The figures of the study, from the rows of its CSV files; the samples from the runs' pictures."""

from pathlib import Path

from common.figures import axes_of, save, subplots

CURVES = {"weighted": "C0", "guided": "C1", "linearised": "C2"}
LABELS = {
    "weighted": "importance-weighted",
    "guided": "guided, direct",
    "linearised": "guided, linearised",
}
MARKED = {
    "grid": "v", "random": "s", "bayesian": "D", "bilevel": "o", "bilevel, published estimator": "x",
}  # fmt: skip


def draw_curves(path: Path, curves: list[dict], results: list[dict]) -> None:
    """r1 and r2 against lambda, by importance weights and by guided runs; chosen values marked."""
    figure, axes = axes_of(3, 4.6)
    for axis, name in zip(axes[:2], ("r1", "r2"), strict=True):
        for kind, color in CURVES.items():
            rows = sorted((r for r in curves if r["kind"] == kind), key=lambda r: r["lambda"])
            x, y = [r["lambda"] for r in rows], [r[name] for r in rows]
            axis.plot(x, y, color=color, label=LABELS[kind], marker="." if kind != "weighted" else "")
            if kind != "weighted":
                axis.errorbar(x, y, [r[f"{name}_se"] for r in rows], fmt="none", ecolor=color)
        for method, marker in MARKED.items():
            rows = [r for r in results if r["method"] == method]
            x, y = [r["lambda"] for r in rows], [r[name] for r in rows]
            axis.scatter(x, y, marker=marker, s=22, color="0.3", label=method, zorder=3)
        axis.set(xscale="log", xlabel="λ", title=f"mean {name}")
    for kind, color in CURVES.items():
        rows = sorted((r for r in curves if r["kind"] == kind), key=lambda r: r["lambda"])
        axes[2].plot([r["r2"] for r in rows], [r["r1"] for r in rows], color=color, marker=".")
    for method, marker in {**MARKED, "weighted sum": "*", "unguided": "P"}.items():
        rows = [r for r in results if r["method"] == method]
        x, y = [r["r2"] for r in rows], [r["r1"] for r in rows]
        label = None if method in MARKED else method
        axes[2].scatter(x, y, marker=marker, s=22, color="0.3", label=label, zorder=3)
    axes[2].set(xlabel="mean r2", title="mean r1 against mean r2")
    handles = [axis.get_legend_handles_labels() for axis in (axes[0], axes[2])]
    lines, names = (sum(parts, []) for parts in zip(*handles, strict=True))
    figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize=7)
    save(figure, path)


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
