"""The report of the study: numbers of runs into docs/results, then tables and figures from there.

Runs leave their own CSV files. `publish` gathers them under docs/results and fills the page from
there alone, so that it can be filled again without a run.
"""

import json
import math
from collections import Counter
from pathlib import Path

from common.errors import JsonObject, Stop, read_json
from common.locate import ROOT
from common.tables import fill_file, read_csv, write_csv
from studies.lr_schedules import figures
from studies.lr_schedules.numbers import Numbers
from studies.lr_schedules.options import LR_SCHEDULES
from studies.lr_schedules.page import all_tables, comparison_tables
from studies.lr_schedules.paper import NAMES

DOCS = ROOT / "docs"
# a run's CSV file -> the one in docs/results that takes its rows
OF_A_STUDY = {
    "results": "lr_results",
    "timing": "lr_timing",
    "losses": "lr_losses",
    "points": "lr_points",
}
OF_A_SWEEP = {"results": "lr_sweep"}


def publish(folders: list[Path]) -> None:
    """Take the numbers of runs into docs/results, if any are given, and write the report."""
    gathered = {}
    of_runs = [rows_of(folder) for folder in folders]
    for rows in sorted(of_runs, key=first_seed, reverse=True):
        points = {"lr_points": rows["lr_points"]} if "lr_points" in rows else {}
        for name, added in rows.items():
            gathered.setdefault(name, []).extend(added)
        gathered |= points  # they are of the first seed alone
    store(gathered)
    if not results_file("lr_results").exists():
        raise Stop("docs/results holds no lr_results.csv yet: --report RUN brings one", code=2)
    write_report()
    print(f"wrote {DOCS / 'lr_schedules.md'}")


def first_seed(rows: dict[str, list[dict]]) -> float:
    """The smallest seed of a study's rows; infinite for those of a sweep."""
    return min((row["seed"] for row in rows.get("lr_results", ())), default=math.inf)


def results_file(name: str) -> Path:
    return DOCS / "results" / f"{name}.csv"


def stored(name: str) -> list[dict]:
    """The rows of a file in docs/results, none if it is not there."""
    path = results_file(name)
    return read_csv(path) if path.exists() else []


def store(gathered: dict[str, list[dict]]) -> None:
    """A study of other seeds joins one of the same sets and steps, a sweep those of other sets."""

    def kinds(rows):
        return {(row["set"], row["lr_schedule"], row["steps"]) for row in rows}

    before, new = stored("lr_results"), gathered.get("lr_results", [])
    joins = kinds(before) == kinds(new)
    later = first_seed({"lr_results": new}) > first_seed({"lr_results": before})
    for name, rows in gathered.items():
        if joins and name in OF_A_STUDY.values():
            seeds = {row.get("seed") for row in rows}
            others = [row for row in stored(name) if row.get("seed") not in seeds]
            if seeds != {None}:
                rows = others + rows
            elif later:  # points are those of the first seed alone
                rows = stored(name)
        if name in OF_A_SWEEP.values():
            sets = {row["set"] for row in rows}
            rows = [row for row in stored(name) if row["set"] not in sets] + rows
        write_csv(results_file(name), rows)


def rows_of(folder: Path) -> dict[str, list[dict]]:
    """The rows of a run by the file in docs/results that they belong to.

    Of a study that is not finished, the seeds whose runs are all judged.
    """
    try:
        about = read_json(folder / "args.json")
        kind, arguments = about["kind"], JsonObject(about["arguments"], folder / "args.json")
        if kind == "lr_schedules" and not arguments["sweep"]:
            rows = {name: read_rows(folder / f"{file}.csv") for file, name in OF_A_STUDY.items()}
            finished = (folder / "summary.json").exists()
            return rows_of_a_study(rows, arguments, finished)
        summary = read_json(folder / "summary.json")
    except (Stop, OSError, TypeError, ValueError) as error:
        raise Stop(f"--report: not a finished run's folder: {error}", code=2) from None
    if kind == "train":
        return {"lr_digits": [row_of_digits(folder, arguments, summary)]}
    if kind != "lr_schedules":
        raise Stop(f"--report {folder}: a {kind} run has no place in this report", code=2)
    return {name: read_rows(folder / f"{file}.csv") for file, name in OF_A_SWEEP.items()}


def read_rows(path: Path) -> list[dict]:
    """The rows of a run's file, whose column lr_schedule was once called schedule."""
    rows = read_csv(path)
    for row in rows:
        if "schedule" in row:
            row["lr_schedule"] = row.pop("schedule")
    return rows


def rows_of_a_study(
    rows: dict[str, list[dict]], arguments: dict, finished: bool
) -> dict[str, list[dict]]:
    """The rows of the seeds whose runs are all judged; points are those of the first seed."""
    counts = Counter(row["seed"] for row in rows["lr_results"])
    runs = len(arguments["sets"]) * len(LR_SCHEDULES)  # a finished study may lack a set: dino
    whole = {seed for seed, n in counts.items() if finished or n == runs}
    if arguments["seed"] not in whole:
        raise Stop(f"no seed's runs are all judged, of {sum(counts.values())}")
    for row in rows["lr_timing"]:
        row["drawn"] = arguments["eval_points"]
    return {
        name: [row for row in of_file if row.get("seed", arguments["seed"]) in whole]
        for name, of_file in rows.items()
    }


def row_of_digits(folder: Path, arguments: dict, summary: dict) -> dict:
    """What a run of --digits was and scored."""
    if arguments["dataset"] != "digits" or arguments["lr_schedule"] not in NAMES:
        raise Stop(f"--report {folder}: not a run of --digits", code=2)
    names = ("lr_schedule", "seed", "lr", "epochs", "model_base_dim")
    scores = ("steps", "fid", "n", "extractor", "reference", "loss")
    return {name: arguments[name] for name in names} | {name: summary[name] for name in scores}


def tables_of_run(folder: Path) -> str:
    """Tables 1 to 5 of one run, for the terminal."""
    rows = rows_of(folder)
    tables = comparison_tables(Numbers(rows["lr_results"], rows["lr_timing"]))
    return "\n\n".join(f"{title}\n\n{table}" for title, table in tables.items())


def tables_of_results() -> dict[str, str]:
    """Every table of the page, from docs/results."""
    numbers = Numbers(stored("lr_results"), stored("lr_timing"))
    times = [measured("lr_speed"), measured("lr_sampling")]
    return all_tables(numbers, stored("lr_sweep"), stored("lr_digits"), *times)


def measured(name: str) -> dict | None:
    """What benchmarks.lr_training and benchmarks.lr_sampling wrote."""
    path = DOCS / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_report() -> None:
    numbers = Numbers(stored("lr_results"), stored("lr_timing"))
    losses, points, sweep = (stored(f"lr_{name}") for name in ("losses", "points", "sweep"))
    figures.draw_all(DOCS / "figures", numbers, losses, points, sweep)
    fill_file(DOCS / "lr_schedules.md", tables_of_results())
