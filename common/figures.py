"""The pictures a run leaves: sample grids, curves, the schedule, a GIF of the denoising."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data import to_pixels
from scheduler import Schedule

MIN_CELL = 56  # pixels: small images are enlarged so that a person can see them
GAP, GREY = 6, 96  # between images
ACROSS = 4  # plots in a row
Columns = Mapping[str, Sequence[float]]


def grid(x: Tensor, columns: int | None = None) -> np.ndarray:
    """Images (N,C,H,W) in [-1, 1] as one picture, (H',W',3) uint8."""
    columns = columns or int(len(x) ** 0.5 + 0.999)
    pixels = to_pixels(x.detach().float().cpu())
    zoom = max(1, MIN_CELL // pixels.shape[-1])
    pixels = pixels.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    n, _, height, width = pixels.shape
    down, right = height + GAP, width + GAP
    picture = np.full((-(-n // columns) * down + GAP, columns * right + GAP, 3), GREY, np.uint8)
    for i, cell in enumerate(pixels.permute(0, 2, 3, 1).numpy()):  # one channel fills three
        top, left = i // columns * down + GAP, i % columns * right + GAP
        picture[top : top + height, left : left + width] = cell
    return picture


def save_grid(path: Path, x: Tensor) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(grid(x)).save(path)


def save_gif(path: Path, frames: list[Tensor], columns: int | None = None) -> None:
    """Four seconds of frames of images (N,C,H,W); the last one stands for a while."""
    from PIL import Image

    grids = (Image.fromarray(grid(frame, columns)).convert("L") for frame in frames)
    first, *rest = [picture.quantize(16) for picture in grids]  # shades: noise does not compress
    each = 4000 // len(frames)
    path.parent.mkdir(exist_ok=True)
    durations = [each] * len(rest) + [1500]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def plot_schedules(path: Path, schedules: dict[str, Schedule]) -> None:
    """beta, alpha_bar and log-SNR over time, one line a schedule."""
    figure, axes = axes_of(3)
    for label, schedule in schedules.items():
        with torch.no_grad():
            ab, beta = schedule.alpha_bar().cpu()[1:], schedule.betas().cpu()
        u = torch.arange(1, len(ab) + 1) / len(ab)
        for axis, y in zip(axes, (beta, ab, (ab / (1 - ab)).log()), strict=True):
            axis.plot(u, y, label=label)
    for axis, name in zip(
        axes, ("beta", "alpha_bar", "log(alpha_bar/(1 - alpha_bar))"), strict=True
    ):
        axis.set(title=name, xlabel="t/T")
    axes[0].set_yscale("log")
    axes[0].legend()
    save(figure, path)


def plot_columns(path: Path, x: str, columns: dict[str, list], ys: list[str]) -> None:
    """Columns of a run's CSV file against one of them, a plot each; empty ones are left out.

    The title of a score holds the number of images behind it.
    """
    ys = [y for y in ys if has(columns, y)]
    if not ys:
        return
    figure, axes = axes_of(len(ys))
    for axis, y in zip(axes, ys, strict=True):
        axis.xaxis.get_major_locator().set_params(integer=True)  # half an epoch is none
        there = np.isfinite(columns[y])
        xs, values = np.asarray(columns[x])[there], np.asarray(columns[y])[there]
        axis.plot(xs, values, **marks(values))
        axis.set(xlabel=x, title=title_of(y, columns))
    save(figure, path)


def title_of(column: str, columns: dict[str, list]) -> str:
    """A column's name; a score's with its n."""
    counts = np.asarray(columns.get("fid_n", []), dtype=float)
    counts = np.unique(counts[np.isfinite(counts)]).astype(int)
    if column.split("_")[0] not in ("fid", "kid", "is") or not len(counts):
        return column
    return f"{column}, n = {' and '.join(map(str, counts))}"


def save_beside(
    path: Path, pictures: Mapping[str, np.ndarray | Path], width: float, across: int | None = None
) -> None:
    """Pictures, or files of them, side by side with their titles, in rows of `across`."""
    from PIL import Image

    across = across or len(pictures)
    figure, grid = subplots(-(-len(pictures) // across), across, width, 1.12 * width)
    for axis in grid.flatten():
        axis.axis("off")
    for axis, (title, picture) in zip(grid.flatten(), pictures.items(), strict=False):
        axis.imshow(Image.open(picture) if isinstance(picture, Path) else picture)
        axis.set_title(title, fontsize=9)
    save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # needs no screen
    from matplotlib import pyplot

    return pyplot


def current():
    """The figure that another library has drawn last."""
    return _pyplot().gcf()


def subplots(rows: int, columns: int, width: float, height: float):
    """A figure of plots of one size, and the plots as an array of rows."""
    size = (width * columns, height * rows)
    return _pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def axes_of(n: int, width: float = 4.2):
    """A figure of n plots side by side, and the plots."""
    figure, axes = subplots(1, n, width, 3.2)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    return figure, axes[0]


def wrapped_axes(n: int):
    """n plots, in rows of at most ACROSS."""
    figure, grid = subplots(-(-n // ACROSS), min(n, ACROSS), 4.2, 3.2)
    for axis in grid.flatten():
        axis.grid(alpha=0.3)
    for axis in grid.flatten()[n:]:
        axis.axis("off")
    return figure, grid.flatten()[:n]


def has(columns: Columns, name: str) -> bool:
    """Whether a column is there with a number in it."""
    return name in columns and bool(np.isfinite(columns[name]).any())


def marks(values) -> dict:
    """A few points are drawn as points too, many as a line."""
    return {"marker": "o", "markersize": 3} if np.isfinite(values).sum() < 20 else {}


def legend(axis) -> None:
    """A small legend, if there is something in it."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7)


def save(figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
