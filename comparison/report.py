"""What reproduce.py says: the results as CSV, and from them alone a page and its figures."""

import csv
import json
import math
import statistics
from pathlib import Path

import numpy as np
from scipy.stats import t

from common import figures
from common.families import FAMILIES
from common.run import forward_passes
from scheduler import Schedule

COSTS = ("training", "upper", "sampling")
# column -> heading, digits
TABLE = {
    "fid": ("FID", 1), "fid_no_clip": ("FID, no clipping", 1), "is_mean": ("IS", 2),
    "fid_in_time": ("FID at equal time", 1), "seconds": ("seconds", 0),
    "forward_passes": ("10⁶ forward passes", 2), "gradient_steps": ("gradient steps", 0),
    "peak_bytes": ("peak MiB", 0),
}  # fmt: skip
SHORT = ("fid", "fid_no_clip", "is_mean", "seconds", "forward_passes", "gradient_steps")  # README
UNITS = {"forward_passes": 1e6, "peak_bytes": 2**20}
DRAWN = (
    "default",
    "bayesian",
    "bilevel zo",
    "bilevel forward",
    "recipe paper",
)  # in the figures of schedules


def write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if type(v) is float else v for k, v in row.items()})


def read_csv(path: Path) -> list[dict]:
    with open(path) as file:
        return list(csv.DictReader(file))


def print_plan(costs: list[tuple], rate: float) -> None:
    """The runs and how long each should take at `rate` forward passes a second."""
    for method, seed, cost in costs:
        print(f"{method:26s} seed {seed}  {cost:14,d} forward passes  {cost / rate / 60:8.1f} min")
    total = sum(cost for *_, cost in costs)
    print(f"{len(costs)} runs, {total:,} forward passes, {total / rate / 3600:.1f} hours in turn")


def curves(cells) -> list[dict]:
    """FID against forward passes: a search's best so far, the bilevel method's after each epoch."""
    rows = []
    for cell in cells:
        if cell.kind == "search":
            lines = (cell.folder / "search.jsonl").read_text().splitlines()
            spent, best = 0, math.inf
            for row in sorted(map(json.loads, lines), key=lambda row: row["trial"]):
                spent += forward_passes(row["network_evaluations"])
                best = min(best, row["objective"] if row["objective"] is not None else math.inf)
                rows.append(_point(cell, spent, best))
        elif cell.kind == "bilevel":
            for row in read_csv(cell.folder / "scores.csv"):
                rows.append(_point(cell, int(row["evaluations"]), float(row["fid"] or "nan")))
    return rows


def _point(cell, spent, fid):
    return {"method": cell.method, "seed": cell.seed, "forward_passes": spent, "fid": fid}


def figure_of(path: Path, which: str) -> Path:
    """docs/results/x.csv -> docs/figures/x_which.png"""
    return path.parent.parent / "figures" / f"{path.stem}_{which}.png"


def write(name: str, scale: dict, path: Path) -> None:
    """docs/reproduce_SCALE.md and its figures, from the CSV files."""
    rows, curves_path = read_csv(path), path.with_name(f"{path.stem}_curves.csv")
    if curves_path.exists():
        plot_curves(figure_of(path, "curves"), read_csv(curves_path))
    plot_learned(figure_of(path, "schedules"), rows)
    text = [f"# The comparison at scale `{name}`", "", *introduction(name, scale, rows), ""]
    text += [*table(rows), "", "## Differences", "", *differences(rows), "", "## Figures", ""]
    for which, words in (
        ("curves", "FID against forward passes; the band spans the seeds"),
        ("schedules", "alpha_bar of each seed"),
        ("samples", "seed 0: the first images of each method, from the same noise"),
    ):
        if figure_of(path, which).exists():
            text += [f"![{words}](figures/{figure_of(path, which).name})", "", f"*{words}*", ""]
    text += ["## Commands", "", *commands(rows), ""]
    page = path.parent.parent / f"{path.stem}.md"
    page.write_text("\n".join(text))
    print(f"wrote {page}")


def into_readme(readme: Path, name: str, rows: list[dict]) -> None:
    """The short table, where the README has a mark for it."""
    begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
    before, found, after = readme.read_text().partition(begin)
    if not found:
        return
    after = after[after.index(end) :]
    readme.write_text(before + begin + "\n".join(table(rows, SHORT)) + after)


def introduction(name: str, scale: dict, rows: list[dict]) -> list[str]:
    seeds = sorted({row["seed"] for row in rows})
    facts = {key: sorted({row[key] for row in rows}) for key in ("n", "extractor", "reference")}
    machine = sorted({
        f"{r['device']}, {r['threads']} thread(s) a run, {r['jobs']} run(s) at once" for r in rows
    })  # fmt: skip
    judged = f"{', '.join(facts['n'])} images, extractor {', '.join(facts['extractor'])}"
    budget = "as many trials as the zeroth-order bilevel run pays for"
    if "trials" in scale:
        budget = "the published number of trials, which is not the bilevel run's budget"
    return [
        f"`python reproduce.py --scale {name} --seeds {len(seeds)}`: {scale['what']}. On "
        f"{'; '.join(machine)}. FID and IS of {judged}, against {'; '.join(facts['reference'])}, "
        "from noise that no search and no update has seen.",
        "",
        f"A training image counts as three forward passes, since its backward pass costs two. A "
        f"search has {budget}. *Zo's steps* are as many gradient steps as both copies of the "
        "zeroth-order run take, *zo's budget* is as many forward passes. *At equal time* is what a "
        "method held when the zeroth-order bilevel run of its seed was done: a search its best "
        "trial so far, an unfinished run nothing. A schedule trained anew counts the bilevel run "
        "that found it. Gradient steps are those of theta_y and theta_z, and of all trials of a "
        "search. Seconds are wall-clock: those of a machine that did other work too are too long.",
    ]


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by method, in the file's order."""
    found = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def table(rows: list[dict], columns=tuple(TABLE)) -> list[str]:
    """A row a method: mean ± standard deviation over its seeds."""
    lines = ["| method | seeds | trials |" + "".join(f" {TABLE[name][0]} |" for name in columns)]
    lines += ["|---|---|---|" + "---:|" * len(columns)]
    for method, mine in groups(rows).items():
        cells = [method, ", ".join(row["seed"] for row in mine), mine[0]["trials"] or "–"]
        for column in columns:
            values = [float(row[column]) / UNITS.get(column, 1) for row in mine if row[column]]
            cells.append(_mean_and_deviation(values, TABLE[column][1]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _mean_and_deviation(values, digits):
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def differences(rows: list[dict]) -> list[str]:
    """Each method's FID less the default's and the Bayesian search's, paired by seed."""
    by_method = {m: {r["seed"]: float(r["fid"]) for r in mine} for m, mine in groups(rows).items()}
    bases = [m for m in ("default", "default, zo's budget", "bayesian") if m in by_method]
    lines = [
        "Of the FID; lower is better. Paired by seed: mean and standard error. *Yes* or *worse* "
        "where Student's t on as many seeds leaves 0 outside its 95 % interval; a table of so many "
        "differences has one or two such by chance.",
        "",
    ]
    lines += ["| method |" + "".join(f" less {base} | better? |" for base in bases)]
    lines += ["|---|" + "---:|---|" * len(bases)]
    for method, fids in by_method.items():
        cells = [method]
        for base in bases:
            values = [fids[s] - by_method[base][s] for s in fids if s in by_method[base]]
            if method == base or len(values) < 2:
                cells += ["–", "–"]
                continue
            mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
            reach = float(t.ppf(0.975, len(values) - 1)) * error
            verdict = "yes" if mean < -reach else "worse" if mean > reach else "not shown"
            cells += [f"{mean:+.1f} ± {error:.1f}", verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def commands(rows: list[dict]) -> list[str]:
    lines = ["| method | seed | commit | command |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['method']} | {row['seed']} | {row['commit']} | `{row['command']}` |")
    return lines


def plot_curves(path: Path, points: list[dict]) -> None:
    """FID against forward passes: the mean over seeds, the band from the best to the worst."""
    figure, (axis,) = figures.axes_of(1, width=7)
    for method, mine in groups(points).items():
        by_seed = groups([{**p, "method": p["seed"]} for p in mine]).values()
        tracks = [
            np.array([(float(p["forward_passes"]), float(p["fid"])) for p in seed])
            for seed in by_seed
        ]
        low, high = max(k[0, 0] for k in tracks), min(k[-1, 0] for k in tracks)
        x = np.linspace(low, max(low, high), 200)
        # what was known at x: the last point before it
        y = np.array([k[np.searchsorted(k[:, 0], x, side="right") - 1, 1] for k in tracks])
        (line,) = axis.plot(x, y.mean(0), label=method)
        axis.fill_between(x, y.min(0), y.max(0), alpha=0.15, color=line.get_color())
    axis.set(xlabel="forward passes", title="FID", yscale="log")
    axis.legend(fontsize=8)
    figures.save(figure, path)


def plot_learned(path: Path, rows: list[dict]) -> None:
    """The schedules that the methods came to, a line a seed."""
    found = groups(rows)
    methods = [method for method in DRAWN if method in found]
    figure, (axis,) = figures.axes_of(1, width=6)
    for i, method in enumerate(methods):
        for row in found[method]:
            values = {name: float(row[name]) for name in FAMILIES["cosine"]}
            curve = Schedule("cosine", 200, **values).alpha_bar().detach()
            label = method if row is found[method][0] else None
            axis.plot(np.linspace(0, 1, len(curve)), curve, color=f"C{i}", label=label, alpha=0.7)
    axis.set(xlabel="t/T", title="alpha_bar")
    if methods:
        axis.legend(fontsize=8)
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
