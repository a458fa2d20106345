"""The page of the comparison: generated tables between the marks of a hand-written text."""

import statistics
from pathlib import Path

from scipy.stats import t

from common.tables import fill, markdown
from comparison.scales import BILEVEL

TEMPLATE = Path(__file__).with_name("page.md")
# column -> heading, digits, unit
COLUMNS = {
    "fid": ("FID", 1, 1),
    "fid_no_clip": ("FID, no clipping", 1, 1),
    "fid_second": ("FID by `second`", 1, 1),
    "fid_second_no_clip": ("FID by `second`, no clipping", 1, 1),
    "fid_pixels": ("FID by `pixels`", 2, 1),
    "fid_pixels_no_clip": ("FID by `pixels`, no clipping", 2, 1),
    "is_mean": ("IS", 2, 1),
    "fid_in_time": ("FID at equal time", 1, 1),
    "seconds": ("seconds", 0, 1),
    "forward_passes": ("10⁶ forward passes", 2, 1e6),
    "gradient_steps": ("gradient steps", 0, 1),
    "peak_bytes": ("peak MiB", 0, 2**20),
}
# of the README's table
SHORT_COLUMNS = ("fid", "fid_no_clip", "is_mean", "seconds", "forward_passes", "gradient_steps")
SHORT_METHODS = ("default", "bayesian", BILEVEL, "default, zo's budget", "zo's schedule, anew")
BASELINES = ("default", "default, zo's budget", "bayesian")
CAPTIONS = {
    "curves": "FID against forward passes; the band spans the seeds",
    "schedules": "alpha_bar of each seed",
    "samples": "seed 0: the first images of each method, from the same noise",
}


def figure_path(csv_path: Path, name: str) -> Path:
    """docs/results/x.csv -> docs/figures/x_name.png"""
    return csv_path.parent.parent / "figures" / f"{csv_path.stem}_{name}.png"


def print_plan(costs: list[tuple[str, int, int]], rate: float) -> None:
    """The runs and how long each should take at `rate` forward passes a second."""
    for cell, (method, seed, passes) in enumerate(costs):
        cost = f"{passes:14,d} forward passes  {passes / rate / 60:8.1f} min"
        print(f"cell {cell:3d}  {method:26s} seed {seed}  {cost}")
    total = sum(cost for *_, cost in costs)
    hours = total / rate / 3600
    print(f"{len(costs)} runs, {total:,} forward passes, {hours:.1f} hours one after the other")


def write_page(scale: str, meaning: str, rows: list[dict], csv_path: Path) -> Path:
    """docs/reproduce_SCALE.md: its tables anew, its text as it stands; the template if there is
    none."""
    page = csv_path.parent.parent / f"{csv_path.stem}.md"
    text = page.read_text() if page.exists() else TEMPLATE.read_text().replace("SCALE", scale)
    tables = {
        "what was run": facts(scale, meaning, rows),
        "scores": scores(rows),
        "differences": differences(rows),
        "figures": pictures(csv_path),
        "commands": commands(rows),
    }
    page.write_text(fill(text, tables))
    return page


def fill_readme(readme: Path, name: str, rows: list[dict]) -> None:
    """The short table, where the README has a mark for it."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, mark, after = readme.read_text().partition(begin)
    if not mark:
        return
    after = after[after.index(end) :]
    short = [row for row in rows if row["method"] in SHORT_METHODS]
    readme.write_text(f"{before}{begin}{scores(short, SHORT_COLUMNS)}\n{after}")


def facts(scale: str, meaning: str, rows: list[dict]) -> str:
    """The command, the machine, and what the networks were judged by."""

    def every(column):
        return "; ".join(sorted({row[column] for row in rows}))

    seeds = len({row["seed"] for row in rows})
    machines = sorted({
        f"{r['device']}, threads of a run: {r['threads']}, runs in parallel: {r['jobs']}"
        for r in rows
    })  # fmt: skip
    return markdown(
        ["", ""],
        [
            ["command", f"`python reproduce.py --scale {scale} --seeds {seeds}`"],
            ["size", meaning],
            ["machine", "; ".join(machines)],
            ["images", every("n")],
            ["extractor", every("extractor")],
            ["reference", every("reference")],
        ],
    )


def by_method(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by method, in the file's order."""
    groups = {}
    for row in rows:
        groups.setdefault(row["method"], []).append(row)
    return groups


def scores(rows: list[dict], columns=tuple(COLUMNS)) -> str:
    """A row a method: mean ± standard deviation over its seeds, of what the file holds."""
    columns, lines = [column for column in columns if column in rows[0]], []
    for method, of_method in by_method(rows).items():
        line = [method, ", ".join(r["seed"] for r in of_method), of_method[0]["trials"] or "–"]
        for column in columns:
            _, digits, unit = COLUMNS[column]
            values = [float(row[column]) / unit for row in of_method if row[column]]
            line.append(_mean_and_deviation(values, digits))
        lines.append(line)
    head = ["method", "seeds", "trials", *(COLUMNS[column][0] for column in columns)]
    return markdown(head, lines)


def _mean_and_deviation(values, digits):
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def differences(rows: list[dict]) -> str:
    """Each method's FID less that of the baselines, paired by seed."""
    fids = {
        method: {row["seed"]: float(row["fid"]) for row in of_method}
        for method, of_method in by_method(rows).items()
    }
    bases = [base for base in BASELINES if base in fids]
    head = ["method", *(cell for base in bases for cell in (f"less {base}", "better?"))]
    lines = [
        [method, *(cell for base in bases for cell in _difference(fids[method], fids[base]))]
        for method in fids
    ]
    return markdown(head, lines)


def _difference(fids: dict[str, float], base: dict[str, float]) -> tuple[str, str]:
    """Mean and standard error of the paired differences, and the verdict."""
    values = [fids[seed] - base[seed] for seed in fids if seed in base]
    if fids is base or len(values) < 2:
        return "–", "–"
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    verdict = "yes" if mean < -reach else "worse" if mean > reach else "not shown"
    return f"{mean:+.1f} ± {error:.1f}", verdict


def pictures(csv_path: Path) -> str:
    """The figures that there are, each with its caption."""
    paths = {caption: figure_path(csv_path, name) for name, caption in CAPTIONS.items()}
    return "\n\n".join(
        f"![{caption}](figures/{path.name})\n\n*{caption}*"
        for caption, path in paths.items()
        if path.exists()
    )


def commands(rows: list[dict]) -> str:
    return markdown(
        ["method", "seed", "commit", "command"],
        [[r["method"], r["seed"], r["commit"], f"`{r['command']}`"] for r in rows],
    )
