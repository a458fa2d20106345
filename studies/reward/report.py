"""The report of the study: its runs' numbers into docs/results, then the page from there."""

from pathlib import Path

from common.errors import Stop, read_json
from common.figures import save_beside
from common.locate import ROOT
from common.tables import fill_file, read_csv, read_text_csv, write_csv
from comparison.jobs import check_flags
from studies.reward import curves, figures, oracles
from studies.reward.page import all_tables
from studies.reward.tasks import BILEVEL, METHODS, SPENT, Task

DOCS = ROOT / "docs"
PICTURED = (BILEVEL, "bilevel, published estimator", "weighted sum")
CHOSEN = ("target_class", "direction", "choice_lambda", "choice_gain")  # by the rule
TOTALS = ("runs", "seconds", "cpu_seconds")  # of a scale's calls
NAMES = ("results", "curves", "traces", "oracles", "facts")
NUMBERS = (
    "lambda", "weight", "r1", "r1_se", "r2", "r2_se", "accuracy", "frechet_distance",
    "kid", "n", "choosing_evaluations", "choosing_cpu_seconds", "best_of_curve", "best_of_curve_r1",
    "lambda_low", "ends_on_bound", "weighted_r1", "weighted_r2", "weighted_ess", "seconds",
    "cpu_seconds",
)  # fmt: skip


def results_file(name: str) -> Path:
    return DOCS / "results" / f"reward_{name}.csv"


def stored() -> dict[str, list[dict]]:
    """Every file of the study in docs/results."""
    missing = [name for name in NAMES if not results_file(name).exists()]
    if missing:
        raise Stop(f"{results_file(missing[0])}: not there; python -m studies.reward makes it",
                   code=2)  # fmt: skip
    rows = {name: read_csv(results_file(name)) for name in NAMES}
    rows["facts"] = read_text_csv(results_file("facts"))  # a commit such as 1234e5678901 is text
    return rows


def gather(tasks: list[Task]) -> None:
    """Take the numbers of finished tasks, and a picture of samples, into docs."""
    by_name = {(task.method, task.seed): task for task in tasks}
    if (BILEVEL, 0) not in by_name:
        raise Stop(f"the page needs the {BILEVEL} run of seed 0, which is not done", code=2)
    leader = by_name[BILEVEL, 0]
    write_csv(results_file("results"), [row_of(t) for t in tasks if t.method in METHODS])
    write_csv(results_file("curves"), curves.of_rewards(tasks))
    write_csv(results_file("traces"), curves.of_descents(tasks))
    write_csv(results_file("oracles"), oracles.all_rows())
    write_csv(results_file("facts"), facts(leader))
    pictures = {"without guidance": leader.folder / "samples" / "before.png"}
    for task in (by_name[name, 0] for name in PICTURED if (name, 0) in by_name):
        title = f"{task.method}: λ = {task.summary['lambda']:.2g}"
        if task.summary["weight"]:
            title += f", w = {task.summary['weight']:.2g}"
        pictures[title] = task.folder / "samples" / "after.png"
    save_beside(DOCS / "figures" / "reward_samples.png", pictures, 3.4)


def row_of(task: Task) -> dict:
    """A task's final numbers, its command, and where it ran."""
    summary = {"frechet_distance": task.summary.get("fid"), **task.summary}  # its earlier name
    about = read_json(task.folder / "args.json")
    asked = {k: v for k, v in vars(task.parsed()).items() if k not in ("ckpt", "cache_dir")}
    check_flags(task.folder, asked, about["arguments"])
    row = {"method": task.method, "seed": task.seed}
    row |= {name: "" if (v := summary.get(name)) is None else v for name in NUMBERS}
    row |= {"command": task.command, "commit": about["commit"], "device": about["device"]}
    return row | {"torch": about["versions"]["torch"], "threads": about["threads"]}


def facts(leader: Task) -> list[dict]:
    """What was run, what the rule chose, and what all this took."""
    summary, args = leader.summary, leader.parsed()
    names = (
        "backward_steps", "bank_samples", "choice_samples", "n_directions", "guided_samples",
        "eval_samples", "gamma", "min_ess", "iterations", "step", "max_step",
    )  # fmt: skip
    rows = {name: summary[name] for name in CHOSEN}
    rows |= {name: getattr(args, name) for name in names}
    rows |= {name: summary[name] for name in ("extractor", "reference")}
    about = read_json(leader.folder / "args.json")
    rows |= {name: about[name] for name in ("model", "commit", "device", "threads", "started")}
    rows |= {"leader_seconds": summary["seconds"], "leader_cpu_seconds": summary["cpu_seconds"]}
    for scale in ("page", "first"):
        rows |= spent(leader.root.parent.parent / scale / SPENT, scale)
    return [{"name": name, "value": value} for name, value in rows.items()]


def spent(path: Path, scale: str) -> dict:
    """What the calls of the study took at a scale; what the page had before if none are there."""
    if path.exists():
        calls = read_csv(path)
        totals = {name: round(sum(call[name] for call in calls)) for name in TOTALS}
        totals["jobs"] = max(call["jobs"] for call in calls)
        return {f"{scale}_{name}": total for name, total in totals.items()}
    before = read_text_csv(results_file("facts")) if results_file("facts").exists() else []
    return {r["name"]: r["value"] for r in before if r["name"].startswith(f"{scale}_")}


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
