"""The page of the comparison: generated tables between the marks of a hand-written text."""

import statistics
from pathlib import Path

from common.estimate import duration
from common.families import NAMES
from common.tables import counted, fill, markdown, plus_minus
from comparison.differences import differences
from comparison.kept import figure_path
from comparison.learned import noise_table, terms_table
from comparison.repeats import Pairs, drift_lines, pairs_of, repeats_table
from comparison.rows import JUDGED_BY, JUDGES, REGIMES, SCORES, by_method, headline, numbers
from comparison.scales import BILEVEL, KNOTS_OF_FEW

TEMPLATE = Path(__file__).with_name("page.md")
# column -> heading, digits, unit
COSTS = {
    "seconds": ("seconds", 0, 1),
    "forward_passes": ("10⁶ forward passes", 2, 1e6),
    "gradient_steps": ("gradient steps", 0, 1),
    "trials": ("trials", 0, 1),
    "peak_bytes": ("peak MiB", 0, 2**20),
}
SHORT_METHODS = (
    "default",
    "end 0.98",
    BILEVEL,
    "exact, no clipping",
    KNOTS_OF_FEW,
    "schedule alone, no clipping",
)
CAPTIONS = {
    "steps": "FID against DDIM steps by three judges, of fewer images than in the tables above; "
    "mean, range and number of seeds",
    "curves": "FID that the runs log on the way, by their own sampler and extractor, against "
    "forward passes; the band spans the seeds",
    "schedules": "log SNR of each seed's schedule",
    "slopes": "both terms of dF/dq and their sum, of the runs in the table of the two terms; a "
    "line is the median over the seeds",
    "samples": "seed 0: the first images of each method, from the same noise",
}


def print_plan(
    costs: list[tuple[int | None, str, int, int, bool]],
    rate: float,
    threads: int,
    projected: float | None = None,
) -> None:
    """The runs and how long each should take at `rate` forward passes a second.

    Some have rows: they are made again where another cell begins with what they leave. `projected`
    is the rate that an H100 may have.
    """
    for cell, method, seed, passes, has_rows in costs:
        cost = f"{passes:14,d} forward passes  {passes / rate / 60:8.1f} min"
        note = "  has rows; made again: another cell begins with its run" if has_rows else ""
        print(f"cell {'–' if cell is None else cell:>3}  {method:36s} seed {seed}  {cost}{note}")
    total = sum(passes for *_, passes, _ in costs)
    hours = total / rate / 3600
    runs = counted(len(costs), "run")
    print(f"{runs}, {total:,} forward passes, {hours:.1f} hours one after the other")
    print(f"at the rate of a few training steps timed here; threads of a run: {threads}")
    if projected:
        length = duration(total / projected)
        print(
            f"on an H100, if it runs at a third of its float32 peak: {length}, "
            "without the judging; a projection, which no run has confirmed"
        )


def write_page(csv_path: Path, page: str) -> Path:
    """docs/results/x.csv -> docs/x.md"""
    path = csv_path.parent.parent / f"{csv_path.stem}.md"
    path.write_text(page)
    return path


def page_of(scale: str, meaning: str, tables: dict[str, list[dict]], csv_path: Path) -> str:
    """The text of the template with its tables; `tables` are the rows of the CSV files by name."""
    scores, again = tables[""], tables["again"]
    runs, runs_again = tables["runs"], tables["again_runs"]

    def of_regime(clip):
        return scores_table(headline(scores, clip), pairs_of(scores, again, clip))

    filled = {
        "what was run": facts(scale, meaning, runs, scores),
        "with clipping": of_regime("True"),
        "without clipping": of_regime("False"),
        "differences with clipping": differences(headline(scores, "True")),
        "differences without clipping": differences(headline(scores, "False")),
        "the two terms": terms_table(tables["slopes"]),
        "learned beside noise": noise_table(tables["null"]),
        "runs made again": repeats_table(scores, again, runs, runs_again),
        "costs": costs_table(runs),
        "figures": pictures(csv_path),
        "commands": commands(runs),
    }
    return fill(TEMPLATE.read_text().replace("SCALE", scale), filled)


def fill_readme(readme: Path, name: str, scores: list[dict], again: list[dict]) -> None:
    """The short table, where the README has a mark for it: both regimes beside each other."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, mark, after = readme.read_text().partition(begin)
    if not mark:
        return
    after = after[after.index(end) :]
    readme.write_text(f"{before}{begin}{short_table(scores, again)}\n{after}")


def short_table(scores: list[dict], again: list[dict]) -> str:
    """A row a method of the README: three judges in both regimes."""
    by_regime = {clip: by_method(headline(scores, clip)) for clip in REGIMES}
    lines = []
    for method in SHORT_METHODS:
        if method not in by_regime["True"]:
            continue
        line = [method, str(len(by_regime["True"][method]))]
        for clip in REGIMES:
            for column in JUDGED_BY:
                values = numbers(by_regime[clip][method], column)
                line.append(plus_minus(values, f".{SCORES[column][1]}f"))
        lines.append(line)
    lines += drift_lines([pairs_of(scores, again, clip) for clip in REGIMES], JUDGED_BY)
    regimes = "clipped", "unclipped"
    head = [f"{judge}, {regime}" for regime in regimes for judge in JUDGES.values()]
    return markdown(["method", "seeds", *head], lines)


def facts(scale: str, meaning: str, runs: list[dict], scores: list[dict]) -> str:
    """The command, the machines, and what the networks were judged by."""

    def every(rows, column):
        return "; ".join(sorted({row[column] for row in rows}))

    machines = sorted({
        f"{r['device']} ({r['processor']}), threads of a run: {r['threads']}" for r in runs
    })  # fmt: skip
    most = max(int(row["n"]) for row in scores)
    first = [row for row in scores if int(row["n"]) == most]
    return markdown(
        ["", ""],
        [
            ["command", f"`python reproduce.py --scale {scale}`"],
            ["size", meaning],
            ["machine", "; ".join(machines)],
            ["commit", every(runs, "commit")],
            ["torch", every(runs, "torch")],
            ["images judged", str(most)],
            ["DDIM steps", every(first, "steps")],
            ["extractor", every(first, "extractor")],
            ["reference", every(first, "reference")],
        ],
    )


def scores_table(rows: list[dict], run_twice: Pairs) -> str:
    """A row a method: mean ± standard error over its seeds, by every judge; last, the drift."""
    lines = []
    for method, of_method in by_method(rows).items():
        line = [method, ", ".join(row["seed"] for row in of_method)]
        for column, (_, digits) in SCORES.items():
            line.append(plus_minus(numbers(of_method, column), f".{digits}f"))
        lines.append(line)
    lines += drift_lines([run_twice], tuple(SCORES))
    return markdown(["method", "seeds", *(head for head, _ in SCORES.values())], lines)


def costs_table(runs: list[dict]) -> str:
    """A row a method: the means of what its runs cost and of what they learned."""
    lines = []
    for method, of_method in by_method(runs).items():
        line = [method, str(len(of_method))]
        for column, (_, digits, unit) in COSTS.items():
            values = numbers(of_method, column, unit)
            line.append(f"{statistics.mean(values):.{digits}f}" if values else "–")
        line += [plus_minus(numbers(of_method, name), ".3f") for name in NAMES]
        lines.append(line)
    head = ["method", "seeds", *(head for head, *_ in COSTS.values()), *NAMES]
    return markdown(head, lines)


def pictures(csv_path: Path) -> str:
    """The figures that there are, each with its caption."""
    paths = {caption: figure_path(csv_path, name) for name, caption in CAPTIONS.items()}
    return "\n\n".join(
        f"![{caption}](figures/{path.name})\n\n*{caption}*"
        for caption, path in paths.items()
        if path.exists()
    )


def commands(runs: list[dict]) -> str:
    return markdown(
        ["method", "seed", "commit", "command"],
        [[r["method"], r["seed"], r["commit"], f"`{r['command']}`"] for r in runs],
    )
