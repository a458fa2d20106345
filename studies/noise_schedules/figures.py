"""The figures of the study: curves in closed form, FIDs from the rows, samples of the runs."""

from collections.abc import Iterable
from pathlib import Path

from common.figures import save, subplots
from studies.noise_schedules.claims import JUDGES
from studies.noise_schedules.closed_form import curve_of
from studies.noise_schedules.plan import ALL_SIZES, BASE, DATASETS, FUNCTIONS, SCALES
from studies.noise_schedules.plan import NOT_NORMALISED as WITHOUT


def draw_curves(path: Path) -> None:
    """alpha_bar and log SNR over time: of every function, and of cosine with every b."""
    figure, axes = subplots(2, 2, 5.0, 3.4)
    for (left, right), recipes in zip(axes, (FUNCTIONS, SCALES), strict=True):
        curves = {recipe: curve_of(recipe) for recipe in recipes}
        middle = len(curves[BASE].alpha_bar) // 2
        for recipe in sorted(recipes, key=lambda name: -curves[name].log_snr[middle]):
            curve = curves[recipe]
            times = [(t + 1) / len(curve.alpha_bar) for t in range(len(curve.alpha_bar))]
            label = "b 1" if recipes is SCALES and recipe == BASE else recipe
            left.plot(times, curve.alpha_bar)
            right.plot(times, curve.log_snr, label=label)
        left.set(title="alpha_bar", xlabel="t/T")
        right.set(title="log SNR", xlabel="t/T", ylim=(-15, 10))
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    save(figure, path)


def draw_scales(path: Path, rows: list[dict]) -> None:
    """FID against b by each judge, a row a data set and size: a thin line a seed, and the mean."""
    places = places_in(rows)
    rows = [row for row in rows if row["recipe"] in SCALES or WITHOUT in row["recipe"]]
    ticks = sorted({float(row["input_scale"]) for row in rows})
    figure, axes = subplots(len(places), len(JUDGES), 4.2, 3.3)
    for line, (dataset, size) in zip(axes, places, strict=True):
        at = rows_at(rows, dataset, size)
        for axis, judge in zip(line, JUDGES, strict=True):
            for without, style, label in ((False, "o-", "normalised"), (True, "x--", WITHOUT)):
                chosen = [row for row in at if (WITHOUT in row["recipe"]) == without]
                draw_seeds(axis, chosen, judge, style, f"C{without:d}", label)
            title = f"{dataset} {size}×{size}, by {judge}"
            axis.set(title=title, xlabel="b", xscale="log")
            axis.set_xticks(ticks, labels=[f"{b:g}" for b in ticks])
            axis.set_xticks([], minor=True)
        finish(line)
    save(figure, path)


def draw_seeds(axis, rows: list[dict], judge: str, style: str, color: str, label: str) -> None:
    """A judge's FID against b: a thin line a seed, and the mean, if it has scored any."""

    def line(of_rows, style, **options):
        if points := scored(of_rows, "input_scale", judge):
            b, mean, *_ = zip(*points, strict=True)
            axis.plot(b, mean, style, color=color, **options)

    for seed in sorted({row["seed"] for row in rows}):
        line([row for row in rows if row["seed"] == seed], style[1:], lw=0.8, alpha=0.5)
    line(rows, style, label=label)


def draw_noise(path: Path, rows: list[dict]) -> None:
    """FID against log SNR at T/2, of both strategies: a row a data set and size."""
    places = places_in(rows)
    figure, axes = subplots(len(places), len(JUDGES), 4.2, 3.3)
    for line, (dataset, size) in zip(axes, places, strict=True):
        at = with_every_seed(rows_at(rows, dataset, size))
        for axis, judge in zip(line, JUDGES, strict=True):
            for recipes, style, label in (
                (FUNCTIONS, "o", "strategy 1: functions"),
                (SCALES, "s-", "strategy 2: b"),
            ):
                chosen = [row for row in at if row["recipe"] in recipes]
                draw_points(axis, chosen, "log_snr_middle", judge, style, label)
            axis.set(title=f"{dataset} {size}×{size}, by {judge}", xlabel="log SNR at T/2")
        finish(line)
    save(figure, path)


def places_in(rows: list[dict]) -> list[tuple[str, int]]:
    """The data sets and sizes of the rows."""
    return [(d, s) for d in DATASETS for s in ALL_SIZES if rows_at(rows, d, s)]


def rows_at(rows: list[dict], dataset: str, size: int) -> list[dict]:
    """Those of a place, sampled by the schedules they were trained with."""
    return [
        row
        for row in rows
        if (row["dataset"], int(row["size"]), row["sampled_by"]) == (dataset, size, "own")
    ]


def with_every_seed(rows: list[dict]) -> list[dict]:
    """The rows of recipes that have all seeds of these rows: means of others compare with none."""
    seeds = {row["seed"] for row in rows}
    of_recipes: dict[str, set[str]] = {}
    for row in rows:
        of_recipes.setdefault(row["recipe"], set()).add(row["seed"])
    return [row for row in rows if of_recipes[row["recipe"]] == seeds]


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


def scored(rows: list[dict], x: str, judge: str) -> list[tuple[float, float, float, float]]:
    """A judge's FIDs against a column, as `mean_and_range` gives them."""
    return mean_and_range(
        (row["recipe"], float(row[x]), float(row[f"fid_{judge}"]))
        for row in rows
        if row[f"fid_{judge}"]
    )


def draw_points(axis, rows: list[dict], x: str, judge: str, style: str, label: str) -> None:
    """A judge's FID against a column, for the recipes that it has scored."""
    if points := scored(rows, x, judge):
        at, y, low, high = zip(*points, strict=True)
        options = {"label": label, "capsize": 3, "markersize": 4}
        axis.errorbar(at, y, [low, high], fmt=style, **options)


def finish(line) -> None:
    """A row of plots of FIDs: the scale, and the legend beside it."""
    for axis in line:
        axis.set(ylabel="FID", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3)
        if not axis.has_data():  # a judge that cannot look at such images
            axis.axis("off")
            axis.set_title("")
    legend_beside(line)


def legend_beside(line) -> None:
    """The legend of a row of plots, to the right of the last one; that may be an empty one."""
    labels: dict = {}
    for axis in line:
        handles, names = axis.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    line[-1].legend(labels.values(), labels.keys(), fontsize=7, **place)
