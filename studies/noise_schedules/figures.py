"""The figures of the study: curves in closed form, FIDs from the rows, samples of the runs."""

from collections.abc import Iterable
from pathlib import Path

from common.figures import save, subplots
from studies.noise_schedules.claims import JUDGES
from studies.noise_schedules.closed_form import curve_of
from studies.noise_schedules.plan import ALL_SIZES, BASE, DATASETS, FUNCTIONS, RECIPES, SCALES
from studies.noise_schedules.plan import NOT_NORMALISED as WITHOUT


def draw_curves(path: Path) -> None:
    """gamma and log SNR over time: of every function, and of cosine with every b."""
    figure, axes = subplots(2, 2, 5.0, 3.4)
    for (left, right), recipes in zip(axes, (FUNCTIONS, SCALES), strict=True):
        curves = {recipe: curve_of(recipe) for recipe in recipes}
        middle = len(curves[BASE].gamma) // 2
        for recipe in sorted(recipes, key=lambda name: -curves[name].log_snr[middle]):
            curve = curves[recipe]
            times = [(t + 1) / len(curve.gamma) for t in range(len(curve.gamma))]
            label = "b 1" if recipes is SCALES and recipe == BASE else recipe
            left.plot(times, curve.gamma)
            right.plot(times, curve.log_snr, label=label)
        left.set(title="gamma", xlabel="t/T")
        right.set(title="log SNR", xlabel="t/T", ylim=(-15, 10))
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    save(figure, path)


def draw_scales(path: Path, rows: list[dict]) -> None:
    """FID against b for every size, by each judge; dashed without normalisation."""
    datasets = [name for name in DATASETS if any(row["dataset"] == name for row in rows)]
    figure, axes = subplots(len(datasets), len(JUDGES), 4.2, 3.3)
    names = set(SCALES) | {name for name in RECIPES if WITHOUT in name}
    rows = [row for row in rows if row["recipe"] in names and row["sampled_by"] == "own"]
    ticks = sorted({float(row["input_scale"]) for row in rows})
    for line, dataset in zip(axes, datasets, strict=True):
        for axis, judge in zip(line, JUDGES, strict=True):
            for color, size in enumerate(ALL_SIZES):
                for without, style in ((False, "o-"), (True, "x--")):
                    points = mean_and_range(
                        (row["recipe"], float(row["input_scale"]), float(row[f"fid_{judge}"]))
                        for row in rows
                        if row["dataset"] == dataset and int(row["size"]) == size
                        and (WITHOUT in row["recipe"]) == without and row[f"fid_{judge}"]
                    )  # fmt: skip
                    if points:
                        label = f"{size}×{size}" + (", not normalised" if without else "")
                        draw_points(axis, points, style, f"C{color}", label)
            axis.set(title=f"{dataset}, by {judge}", xlabel="b", ylabel="FID")
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(ticks, labels=[f"{b:g}" for b in ticks])
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.grid(alpha=0.3)
        legend_beside(line)
    save(figure, path)


def draw_noise(path: Path, rows: list[dict]) -> None:
    """FID against log SNR at T/2, of both strategies: a row a data set and size."""
    places = [
        (dataset, size)
        for dataset in DATASETS
        for size in ALL_SIZES
        if any(row["dataset"] == dataset and int(row["size"]) == size for row in rows)
    ]
    figure, axes = subplots(len(places), len(JUDGES), 4.2, 3.3)
    for line, (dataset, size) in zip(axes, places, strict=True):
        for axis, judge in zip(line, JUDGES, strict=True):
            for recipes, style, label in (
                (FUNCTIONS, "o", "strategy 1: functions"),
                (SCALES, "s-", "strategy 2: b"),
            ):
                points = mean_and_range(
                    (row["recipe"], float(row["log_snr_middle"]), float(row[f"fid_{judge}"]))
                    for row in rows
                    if row["dataset"] == dataset and int(row["size"]) == size
                    and row["recipe"] in recipes and row["sampled_by"] == "own"
                    and row[f"fid_{judge}"]
                )  # fmt: skip
                if points:
                    draw_points(axis, points, style, None, label)
            axis.set(title=f"{dataset} {size}×{size}, by {judge}", yscale="log")
            axis.set(xlabel="log SNR at T/2", ylabel="FID")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.grid(alpha=0.3)
        legend_beside(line)
    save(figure, path)


def mean_and_range(
    points: Iterable[tuple[str, float, float]],
) -> list[tuple[float, float, float, float]]:
    """Of each recipe's (recipe, x, y): x, the mean of y over the seeds, how far its lowest and its
    highest lie from it."""
    of_recipes: dict[tuple[float, str], list[float]] = {}
    for recipe, x, y in points:
        of_recipes.setdefault((x, recipe), []).append(y)
    lines = []
    for (x, _), ys in sorted(of_recipes.items()):
        mean = sum(ys) / len(ys)
        lines.append((x, mean, mean - min(ys), max(ys) - mean))
    return lines


def draw_points(axis, points, style: str, color: str | None, label: str) -> None:
    x, y, low, high = zip(*points, strict=True)
    axis.errorbar(x, y, [low, high], fmt=style, color=color, label=label, capsize=3, markersize=4)


def legend_beside(line) -> None:
    """The legend of a row of plots, to the right of the last one; that may be an empty one."""
    labels: dict = {}
    for axis in line:
        handles, names = axis.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    line[-1].legend(labels.values(), labels.keys(), fontsize=7, **place)


def draw_samples(path: Path, pictures: dict[str, Path]) -> None:
    """Sample grids side by side, all from the same starting noise."""
    from PIL import Image

    figure, axes = subplots(1, len(pictures), 2.6, 2.9)
    for axis, (title, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(Image.open(picture))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    save(figure, path)
