"""The results of finished cells: a row each for the CSV file, and the points of the curves."""

import json
import math
from collections import Counter
from pathlib import Path

from common import checkpoint
from common.errors import Stop
from common.families import among
from common.judging import Judges, judge_checkpoint
from common.machine import progress_bar, setup
from common.run import forward_passes
from common.sampling import SamplerSettings
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv
from comparison.cells import Cell, Places
from comparison.scales import BILEVEL
from search.ledger import Ledger

COSTS = ("training", "upper", "sampling")
SCHEDULE = ("timesteps", "start", "end", "tau", "epsilon")  # columns of the learned schedule
# arguments in which a run may differ from its cell
MAY_DIFFER = {"device", "data_dir", "runs_dir", "threads", "resume", "dry_run"}


def judged(folder: Path, places: Places) -> dict:
    """FID with and without clipping, on held-out noise; kept beside the checkpoint."""
    path = folder / "judged.json"
    if not path.exists():
        arguments = json.loads((folder / "args.json").read_text())["arguments"]
        arguments |= {"device": places.device, "data_dir": places.data_dir}
        scores = {}
        for name, no_clip in (("clip", False), ("no_clip", True)):
            flags = {**arguments, "no_clip": no_clip}
            device = setup(flags["device"], flags["cpu"], flags["threads"])
            judges = Judges.from_flags(device, **flags)
            settings, n = SamplerSettings.from_flags(**flags), flags["eval_samples"]
            network = checkpoint.newest(folder)
            scores[name] = judge_checkpoint(network, judges, device, n, settings, "report")
        checkpoint.write_atomically(path, (json.dumps(scores, indent=2) + "\n").encode())
    return json.loads(path.read_text())


def best_within(folder: Path, seconds: float) -> Path | None:
    """The trial that a search would have chosen after so many seconds."""
    rows = [row for row in Ledger(folder / "search.jsonl").whole() if row["at"] <= seconds]
    best = min(rows, key=lambda row: row["objective"], default=None)
    return best and folder / "trials" / f"{best['trial']:03d}"


def check_same(cell: Cell) -> dict:
    """The content of a run's args.json; a Stop if its flags are no longer the cell's."""
    about = json.loads((cell.folder / "args.json").read_text())
    asked, ran = json.loads(json.dumps(vars(cell.parsed()))), about["arguments"]
    learned = {*among(asked), "schedule_from", "scheduler_type"} if cell.source else set()
    for name in sorted(set(asked) - MAY_DIFFER - learned):
        if asked[name] != ran.get(name, asked[name]):  # a run may be older than a flag
            raise Stop(f"{cell.folder}: ran with --{name} {ran[name]}, now it is {asked[name]}")
    return about


def summary_of(cell: Cell) -> dict:
    return json.loads((cell.folder / "summary.json").read_text())


def spent_of(cell: Cell) -> dict:
    """Seconds, evaluations and steps of a cell's run, with those of the run it learned from."""
    args, summary = cell.parsed(), summary_of(cell)
    cost = Counter(summary["network_evaluations"])
    steps = summary.get("steps") or cost["training"] // args.batch_size  # theta_y's, or all trials'
    if cell.kind == "bilevel":
        iterations = steps // (args.epochs * args.inner_loop)
        steps += max(0, args.epochs - args.initial_epoch) * iterations * args.inner_loop_z
    spent = {"seconds": summary["seconds"], "cost": cost, "steps": steps}
    if cell.source:
        before = spent_of(cell.source)
        spent = {name: value + before[name] for name, value in spent.items()}
    return spent


def row_of(cell: Cell, seconds: float, jobs: int) -> dict:
    """A cell's row; `seconds` is the wall-clock of the bilevel run of its seed."""
    about, summary, spent = check_same(cell), summary_of(cell), spent_of(cell)
    scores = judged(cell.chosen, cell.places)
    in_time = cell.folder if spent["seconds"] <= seconds else None
    if cell.kind == "search":
        in_time = best_within(cell.folder, seconds)
    peak = {k.removeprefix("trials_peak_"): v for k, v in summary.items() if "_peak_" in k}
    peak = peak or summary["peak_memory"]
    schedule = json.loads((cell.folder / "schedule.json").read_text())
    return {
        "method": cell.method, "seed": cell.seed, "fid": scores["clip"]["fid"],
        "fid_no_clip": scores["no_clip"]["fid"], "is_mean": scores["clip"]["is_mean"],
        "fid_in_time": judged(in_time, cell.places)["clip"]["fid"] if in_time else None,
        **by_all_judges(scores),
        "n": scores["clip"]["n"], "extractor": scores["clip"]["extractor"],
        "reference": scores["clip"]["reference"], "seconds": spent["seconds"],
        "forward_passes": forward_passes(spent["cost"]),
        **{name: spent["cost"].get(name, 0) for name in COSTS},
        "gradient_steps": spent["steps"], "trials": summary.get("trials"),
        "peak_bytes": peak.get("cuda", peak["host"]),
        **{name: schedule.get(name) for name in SCHEDULE},
        "host": about.get("host"), "device": about["device"], "threads": about["threads"],
        "jobs": jobs, "commit": about["commit"], "command": cell.command,
    }  # fmt: skip


def by_all_judges(scores: dict[str, dict]) -> dict:
    """The other judges' columns, with clipping and without; a run may be older than a judge."""
    columns = {name: scores["clip"].get(name) for name in JUDGES_COLUMNS}
    return columns | {f"{n}_no_clip": scores["no_clip"].get(n) for n in JUDGES_COLUMNS}


def rows_of(cells: list[Cell], jobs: int) -> list[dict]:
    """A row a cell, in their order."""
    times = {cell.seed: summary_of(cell)["seconds"] for cell in cells if cell.method == BILEVEL}
    rows = []
    with progress_bar(total=len(cells), desc="judging") as bar:
        for cell in cells:
            rows.append(row_of(cell, times.get(cell.seed, 0.0), jobs))
            bar.update()
    return rows


def curves(cells: list[Cell]) -> list[dict]:
    """FID against forward passes: a search's best so far, the bilevel method's after each epoch."""
    points = []
    for cell in cells:
        track = {"search": _track_of_search, "bilevel": _track_of_bilevel}.get(cell.kind)
        for passes, fid in track(cell.folder) if track else ():
            point = {"method": cell.method, "seed": cell.seed}
            points.append({**point, "forward_passes": passes, "fid": fid})
    return points


def _track_of_search(folder: Path):
    lines = (folder / "search.jsonl").read_text().splitlines()
    passes, best = 0, math.inf
    for row in sorted(map(json.loads, lines), key=lambda row: row["trial"]):
        passes += forward_passes(row["network_evaluations"])
        best = min(best, row["objective"] if row["objective"] is not None else math.inf)
        yield passes, best


def _track_of_bilevel(folder: Path):
    for row in read_text_csv(folder / "scores.csv"):
        yield int(row["evaluations"]), float(row["fid"] or "nan")
