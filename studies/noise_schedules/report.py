"""The page of the study: its tables and figures, from the rows of its CSV file."""

from pathlib import Path

from common.errors import Stop
from common.figures import save_beside
from common.judge_files import is_made
from common.locate import ROOT
from common.scores import JUDGES as MADE
from common.tables import fill, read_text_csv
from comparison.kept import figure_path
from studies.noise_schedules import figures
from studies.noise_schedules.claims import Groups, by_own_schedule, groups_of
from studies.noise_schedules.plan import BASE, SCALES
from studies.noise_schedules.tables import by_place, tables_of
from studies.noise_schedules.tasks import Task

PAGE = ROOT / "docs" / "noise_schedules.md"
SHOWN = (BASE, "b 0.5", "b 0.3", "b 0.1", "b 0.1, not normalised", "sigmoid, 0 to 3, tau 0.3")
CAPTIONS = {
    "curves": "alpha_bar and log SNR: above for every function, below for cosine with every b, "
    "where alpha_bar is that of the function without scaling that has the same log SNR",
    "scales": "FID against b: the mean over the seeds, and a thin line for each seed",
    "noise": "FID against log SNR at T/2, for both strategies: mean, best and worst seed",
}


def judges_of(dataset: str, size: int) -> list[str]:
    """The judges that can look at such images."""
    return [name for name in MADE if is_made(name, dataset, size)]


def draw_samples(path: Path, tasks: list[Task]) -> None:
    """The pictures that the runs of seed 0 left, a figure for each data set and size."""
    grids = {
        (task.dataset, task.size, task.recipe): task.folder / "samples" / "epoch_001.png"
        for task in tasks
        if task.seed == 0 and task.recipe in SHOWN and task.done
    }
    for dataset, size in {(dataset, size) for dataset, size, _ in grids}:
        shown = {r: grids[dataset, size, r] for r in SHOWN if (dataset, size, r) in grids}
        if len(shown) == len(SHOWN):
            save_beside(figure_path(path, f"samples_{dataset}_{size}"), shown, 2.6)


def write(path: Path) -> None:
    """docs/noise_schedules.md and its figures, from the CSV file alone."""
    if not path.exists():
        raise Stop(f"{path}: no rows yet; run without --report first", code=2)
    rows = read_text_csv(path)
    figures.draw_curves(figure_path(path, "curves"))
    figures.draw_scales(figure_path(path, "scales"), rows)
    figures.draw_noise(figure_path(path, "noise"), rows)
    page = path.parent.parent / PAGE.name
    text = (page if page.exists() else PAGE).read_text()
    figures_of_page = {"noise figures": pictures(groups_of(rows), path)}
    page.write_text(fill(text, tables_of(rows) | figures_of_page))
    print(f"wrote {page}")


def pictures(groups: Groups, path: Path) -> str:
    """The figures, each with its caption and its seeds."""
    captions = dict(CAPTIONS)
    seeds = {}
    for (dataset, size, _), group in sorted(groups.items(), key=by_place):
        seeds[dataset, size] = seeds.get((dataset, size), 0) + group.has(by_own_schedule(*SCALES))
    counted = "; ".join(f"{name} {size}×{size}: {n}" for (name, size), n in seeds.items())
    for name in ("scales", "noise"):
        captions[name] += f" (seeds with every b: {counted})"
    for dataset, size in seeds:
        text = f"{dataset} {size}×{size}, seed 0: samples from the same noise"
        captions[f"samples_{dataset}_{size}"] = text
    return "\n\n".join(
        f"![{caption}](figures/{figure_path(path, name).name})\n\n*{caption}*"
        for name, caption in captions.items()
        if figure_path(path, name).exists()
    )
