"""The figures of a comparison of runs: curves, paths, slopes, schedules, samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import figures
from common.bilevel_figures import plot_paths, plot_slopes
from common.compare.records import Columns, ComparedRun, parameters_of
from common.compare.samples import plot_samples
from common.datasets import DATASETS
from common.errors import Stop
from common.figures import has, legend, marks
from common.judge_files import settled
from common.run import forward_passes
from scheduler import Schedule

AXES = {"step": "steps", "evaluations": "forward passes", "seconds": "seconds"}


class Picture(NamedTuple):
    """A figure's file, and what it shows."""

    path: Path
    title: str


class Curve(NamedTuple):
    """A score over the course of a run, and what it was measured with."""

    record: ComparedRun
    columns: Columns
    column: str
    measured: str  # such as "200 images, extractor mnist, against test images"


DRAWN = "fid", "loss", "paths*", "slopes*", "schedules", "samples"


def drawn_before(folder: Path) -> set[Path]:
    """Another comparison's pictures; a Stop where the folder is a run's, or holds other ones."""
    if any((place / "args.json").exists() for place in (folder, folder.parent)):
        raise Stop(f"--out {folder}: belongs to a run", code=2)
    drawn = {path for name in DRAWN for path in folder.glob(f"{name}.png")}
    if other := set(folder.glob("*.png")) - drawn:
        name = min(other).name
        raise Stop(f"--out {folder}: holds pictures that are no comparison's, {name}", code=2)
    return drawn


class Figures:
    """The figures of a comparison in a folder, and a note for each that nothing is there for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures: list[Picture] = []
        self.notes: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        for picture in drawn_before(folder):
            picture.unlink()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def keep(self, name: str, title: str, drawn: bool, missing: str) -> None:
        if drawn:
            self.pictures.append(Picture(self.path(name), title))
        else:
            self.notes.append(missing)


def draw(
    records: list[ComparedRun], folder: Path, n_samples: int, device: torch.device | str
) -> tuple[list[Picture], list[str]]:
    """All figures that the runs have something for, and a line for each that they have not."""
    page = Figures(folder)
    done = plot_curves(page.path("fid"), fid_curves(records))
    page.keep("fid", "FID during the runs", done, "no FID curves: no run has a FID of its epochs")
    done = plot_curves(page.path("loss"), loss_curves(records))
    page.keep("loss", "Training loss", done, "no loss curves: no run has ended an epoch")
    draw_learned(page, [record for record in records if record.tables["iterations"]])
    if schedules := dict(schedules_of(records, page.notes)):
        figures.plot_schedules(page.path("schedules"), schedules)
    page.keep("schedules", "Noise schedules", bool(schedules), "no run has a schedule.json")
    if n_samples:
        done = plot_samples(page.path("samples"), records, n_samples, device, page.notes)
        page.keep("samples", "Samples from the same noise", done, "no run to draw samples with")
    return page.pictures, page.notes


def draw_learned(page: Figures, records: list[ComparedRun]) -> None:
    """Paths and slopes of what runs learned, a figure for each family of schedules."""
    families = list(dict.fromkeys(r.schedule["family"] for r in records if "family" in r.schedule))
    if not families:
        page.notes.append("no paths and slopes: no run has learned a schedule")
    for family in families:
        part = [record for record in records if record.schedule.get("family") == family]
        names = list(dict.fromkeys(n for r in part for n in parameters_of(r.schedule)))
        suffix = f"_{family}" if len(families) > 1 else ""
        text = f"of the {family} schedule"
        paths = {r.name: (r.tables["iterations"], r.band) for r in part}
        done = plot_paths(page.path(f"paths{suffix}"), paths, names)
        page.keep(f"paths{suffix}", f"Parameters {text}", done, f"no paths {text}")
        for name, (columns, band) in paths.items():
            if not band and any(has(columns, n) and len(set(columns[n])) > 1 for n in names):
                page.notes.append(f"{name}: no null band, which is written when a run ends")
        slopes = {record.name: record.tables["iterations"] for record in part}
        done = plot_slopes(page.path(f"slopes{suffix}"), slopes, names)
        page.keep(f"slopes{suffix}", f"Slopes {text}", done, f"no slopes {text}")


def fid_curves(records: list[ComparedRun]) -> Iterator[Curve]:
    """Of each run with a FID in scores.csv, a curve a count of images; of a search, the best."""
    for record in records:
        columns = {**record.tables["scores"], **timing(record)}
        # the flag is of a training's own FIDs, and else of what is minimised
        asked = record.arguments.get("reference")
        against = asked if record.kind == "train" and asked else "test"
        if has(columns, "fid"):
            counts = columns.get("fid_n") or [float("nan")] * len(columns["fid"])
            for n in sorted({int(c) for c in counts if np.isfinite(c)}):
                chosen = [i for i, count in enumerate(counts) if count == n]
                part = {
                    name: [v[i] for i in chosen]
                    for name, v in columns.items()
                    if len(v) > chosen[-1]
                }
                yield Curve(record, part, "fid", measured(record, n, against))
        trials = [row for row in record.trials if isinstance(row.get("objective"), int | float)]
        if trials:
            best = np.minimum.accumulate([row["objective"] for row in trials]).tolist()
            spent = np.cumsum(
                [forward_passes(row.get("network_evaluations") or {}) for row in trials]
            ).tolist()
            times = [row.get("at") for row in trials]
            at = [t if isinstance(t, int | float) else float("nan") for t in times]
            columns = {"evaluations": spent, "seconds": at, "best": best}
            yield Curve(
                record, columns, "best", measured(record, trials[0].get("n"), asked or "test")
            )


def measured(record: ComparedRun, n: int | None, against: str) -> str:
    """What makes two FIDs comparable, as a title."""
    by, flags = record.summary.get("extractor"), record.arguments
    if not by and str(flags.get("dataset")) in DATASETS:
        by = settled(flags.get("extractor"), flags["dataset"], flags.get("image_size"))
    return f"{n} images, extractor {by}, against {against} images"


def timing(record: ComparedRun) -> Columns:
    """The seconds of timing.csv, if it has as many rows as scores.csv."""
    seconds, rows = record.tables["timing"].get("seconds", []), record.tables["scores"]
    return {"seconds": seconds} if len(seconds) == len(rows.get("step", [])) else {}


def loss_curves(records: list[ComparedRun]) -> Iterator[Curve]:
    for record in records:
        columns = {**record.tables["scores"], **timing(record)}
        if has(columns, "loss"):
            yield Curve(record, columns, "loss", "mean of an epoch")


def plot_curves(path: Path, curves: Iterator[Curve]) -> bool:
    """A row of plots for each way of measuring: over steps, forward passes and seconds."""
    rows: dict[str, list[Curve]] = {}
    for curve in curves:
        rows.setdefault(curve.measured, []).append(curve)
    if not rows:
        return False
    figure, grid = figures.subplots(len(rows), len(AXES), 4.4, 3.4)
    known = list(dict.fromkeys(c.record.name for part in rows.values() for c in part))
    for axes, (measured, part) in zip(grid, rows.items(), strict=True):
        for axis, (x, label) in zip(axes, AXES.items(), strict=True):
            for curve in part:
                if has(curve.columns, x):
                    xs, ys = (np.asarray(curve.columns[name]) for name in (x, curve.column))
                    best = ", best trial so far" if curve.column == "best" else ""
                    color = f"C{known.index(curve.record.name)}"
                    axis.plot(xs, ys, color=color, label=curve.record.name + best, **marks(ys))
            name = "loss" if part[0].column == "loss" else "FID"
            axis.set(title=f"{name}, {measured}", xlabel=label, yscale="log")
            axis.title.set_fontsize(10)
            axis.yaxis.set_major_formatter(plain_numbers())
            axis.yaxis.set_minor_formatter(plain_numbers())
            axis.tick_params(which="both", labelsize=7)
            axis.grid(alpha=0.3, which="both")
            if not axis.has_data():  # a search has no steps
                axis.axis("off")
                axis.set_title("")
        legend(axes[0] if axes[0].has_data() else axes[1])
    figures.save(figure, path)
    return True


def plain_numbers():
    """100, not 10 to the power of 2."""
    from matplotlib.ticker import FuncFormatter  # needs the backend that figures has chosen

    return FuncFormatter(lambda value, _: f"{value:.5g}")


def schedules_of(records: list[ComparedRun], notes: list[str]) -> Iterator[tuple[str, Schedule]]:
    """The schedule of each run that has a sound one."""
    for record in records:
        if record.schedule:
            try:
                yield record.name, Schedule.load(record.folder / "schedule.json")
            except ValueError as error:
                notes.append(str(error))
