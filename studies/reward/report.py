"""The report of the study: its runs' numbers into docs/results, then the page from there."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import Stop
from common.tables import fill_file, mean_and_error, read_csv, write_csv
from studies.reward import estimator, figures, oracles
from studies.reward.page import all_tables
from studies.reward.tasks import BILEVEL, GRID, LINEARISED, METHODS, STARTS, Task

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
POINTS = 120  # of the importance-weighted curve
NAMES = ("results", "curves", "traces", "oracles", "facts")
NUMBERS = (
    "lambda", "weight", "r1", "r1_se", "r2", "r2_se", "accuracy", "fid", "kid", "n",
    "choosing_evaluations", "choosing_cpu_seconds", "best_of_curve", "best_of_curve_r1",
    "lambda_low", "ends_on_bound", "weighted_r1", "weighted_r2", "weighted_ess", "seconds",
)  # fmt: skip


def results_file(name: str) -> Path:
    return DOCS / "results" / f"reward_{name}.csv"


def stored() -> dict[str, list[dict]]:
    """Every file of the study in docs/results."""
    missing = [name for name in NAMES if not results_file(name).exists()]
    if missing:
        raise Stop(f"{results_file(missing[0])}: not there; python -m studies.reward makes it",
                   code=2)  # fmt: skip
    return {name: read_csv(results_file(name)) for name in NAMES}


def gather(tasks: list[Task]) -> None:
    """Take the numbers of finished tasks, and a picture of samples, into docs."""
    by_name = {(task.method, task.seed): task for task in tasks}
    if (BILEVEL, 0) not in by_name:
        raise Stop(f"the page needs the {BILEVEL} run of seed 0, which is not done", code=2)
    leader = by_name[BILEVEL, 0]
    write_csv(results_file("results"), [row_of(t) for t in tasks if t.method in METHODS])
    write_csv(results_file("curves"), curves(tasks))
    write_csv(results_file("traces"), traces(tasks))
    write_csv(results_file("oracles"), oracles.all_rows())
    write_csv(results_file("facts"), facts(leader))
    pictures = {"without guidance": leader.folder / "samples" / "before.png"}
    for task in (by_name[name, 0] for name in (BILEVEL, "weighted sum") if (name, 0) in by_name):
        title = f"{task.method}: λ = {task.summary['lambda']:.2g}"
        if task.summary["weight"]:
            title += f", w = {task.summary['weight']:.2g}"
        pictures[title] = task.folder / "samples" / "after.png"
    figures.draw_samples(DOCS / "figures" / "reward_samples.png", pictures)


def row_of(task: Task) -> dict:
    """A task's final numbers, its command, and where it ran."""
    summary = task.summary
    about = json.loads((task.folder / "args.json").read_text())
    row = {"method": task.method, "seed": task.seed}
    row |= {name: "" if (v := summary.get(name)) is None else v for name in NUMBERS}
    row |= {"command": task.command, "commit": about["commit"], "device": about["device"]}
    return row | {"torch": about["versions"]["torch"], "threads": about["threads"]}


def curves(tasks: list[Task]) -> list[dict]:
    """Both rewards against lambda: by the importance weights of all seeds, and in guided runs."""
    rows = [{"kind": "weighted", **row} for row in weighted_curve(tasks)]
    for kind, method in (("guided", GRID), ("linearised", LINEARISED)):
        trials = [read_csv(t.folder / "trials.csv") for t in tasks if t.method == method]
        rows += [{"kind": kind, **over_seeds(same)} for same in zip(*trials, strict=True)]
    columns = ("kind", "lambda", "r1", "r1_se", "r2", "r2_se", "seeds", "n", "ess", "kl")
    return [{column: row.get(column, "") for column in columns} for row in rows]


def weighted_curve(tasks: list[Task]) -> list[dict]:
    """The importance-weighted curve from the samples of all seeds together."""
    leaders = [task for task in tasks if task.method == BILEVEL]
    bank = [row for task in leaders for row in read_csv(task.folder / "bank.csv")]
    r1, r2 = (np.array([row[name] for row in bank]) for name in ("r1", "r2"))
    args = leaders[0].parsed()
    low = estimator.smallest_lambda(r2, args.min_ess)
    grid = estimator.grid(low, args.lambda_max, POINTS)
    return [row | {"n": len(r1)} for row in estimator.curve(r1, r2, grid)]


def over_seeds(trials: Sequence[dict]) -> dict:
    """One point of a guided curve: the mean of the seeds' trials at the same lambda."""
    row = {"lambda": trials[0]["lambda"], "seeds": len(trials), "n": sum(t["n"] for t in trials)}
    for name in ("r1", "r2"):
        row[name], error = mean_and_error([trial[name] for trial in trials])
        row[f"{name}_se"] = trials[0][f"{name}_se"] if error is None else error
    return row


def traces(tasks: list[Task]) -> list[dict]:
    """lambda after every step, of seed 0's descents on the same samples."""
    rows = []
    for task in tasks:
        descent = task.method in METHODS or task.method in STARTS
        if task.seed or not descent or not (task.folder / "iterations.csv").exists():
            continue
        steps = read_csv(task.folder / "iterations.csv")
        columns = ("iteration", "lambda", "gradient", "ess", "r1", "r2", "kl")
        steps = steps if len(steps) < 100 else steps[::5]
        about = {"estimator": task.summary["estimator"], "start": steps[0]["lambda"]}
        rows += [about | {name: step[name] for name in columns} for step in steps]
    return rows


def facts(leader: Task) -> list[dict]:
    """What was run, and what the rule chose."""
    summary, args = leader.summary, leader.parsed()
    names = (
        "backward_steps", "bank_samples", "choice_samples", "n_directions", "guided_samples",
        "eval_samples", "gamma", "min_ess", "iterations", "step", "max_step",
    )  # fmt: skip
    rows = {"target_class": summary["target_class"], "direction": summary["direction"]}
    rows |= {name: getattr(args, name) for name in names}
    rows |= {name: summary[name] for name in ("extractor", "reference")}
    about = json.loads((leader.folder / "args.json").read_text())
    rows |= {name: about[name] for name in ("model", "commit", "device", "threads", "started")}
    return [{"name": name, "value": value} for name, value in rows.items()]


def write_page() -> None:
    """Tables and figures of docs/reward.md, from docs/results alone."""
    rows = stored()
    folder = DOCS / "figures"
    figures.draw_curves(folder / "reward_curves.png", rows["curves"], rows["results"])
    first = next(r for r in rows["results"] if r["method"] == BILEVEL and r["seed"] == 0)
    best, low = first["best_of_curve"], first["lambda_low"]
    figures.draw_traces(folder / "reward_traces.png", rows["traces"], best, low)
    fill_file(DOCS / "reward.md", all_tables(rows))
    print(f"wrote {DOCS / 'reward.md'}")
