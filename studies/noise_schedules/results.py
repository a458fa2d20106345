"""The rows of the study: a row for each training and sampling schedule, kept in one CSV file.

Rows are added as the runs end. A row whose command is still the plan's is not run again, wherever
it came from.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import checkpoint
from common.errors import read_json
from common.judging import Judges, judge_checkpoint
from common.machine import setup
from common.sampling import SamplerSettings
from common.scores import COLUMNS, JUDGES_COLUMNS
from common.tables import read_text_csv, rounded, write_csv
from comparison.jobs import check_flags
from model import log_snr
from scheduler import Schedule
from studies.noise_schedules.plan import DATASETS, RECIPES
from studies.noise_schedules.tasks import Key, Task

SCORES = ("n", "extractor", "reference", *COLUMNS, *JUDGES_COLUMNS)


class Results:
    """The CSV file."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        return read_text_csv(self.path) if self.path.exists() else []

    def holds(self, task: Task) -> bool:
        """Whether all rows of a task are there, made by the command that the plan has now."""
        rows = [row for row in self.rows() if key_of(row) == task.key]
        commands = {row["command"] for row in rows}
        return commands == {task.command} and len(rows) == len(task.sampled_by)

    def take(self, task: Task) -> None:
        """Judge a finished task and add its rows, in the place of older ones."""
        new = rows_of(task)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with alone(self.path.parent):
            rows = [row for row in self.rows() if key_of(row) != task.key]
            write_csv(self.path, sorted([*rows, *new], key=_place))


def key_of(row: dict) -> Key:
    return tuple(str(row[name]) for name in ("dataset", "size", "seed", "recipe"))


def _place(row):
    recipes, datasets = list(RECIPES), list(DATASETS)
    place = datasets.index(row["dataset"]), int(row["size"]), int(row["seed"])
    return *place, recipes.index(row["recipe"]), row["sampled_by"] != "own"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits for its turn: other processes of the study add rows to a file in the folder."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def rows_of(task: Task) -> list[dict]:
    """A row for each sampling schedule, with where and by which command it was made."""
    about, summary = read_json(task.folder / "args.json"), task.summary
    arguments, versions = about["arguments"], about["versions"]
    check_flags(task.folder, vars(task.parsed()), arguments)
    schedule = Schedule.load(task.folder / "schedule.json")
    b = arguments["input_scale"]
    before = {"dataset": task.dataset, "size": task.size, "seed": task.seed, "recipe": task.recipe}
    made = {
        "scheduler_type": schedule.family, **_four(schedule), "input_scale": b,
        "normalised": not arguments["no_normalise"], "log_snr_middle": middle(schedule, b),
        "steps": summary["steps"], "ddim_steps": arguments["backward_steps"],
        "loss": summary["loss"], "seconds": summary["seconds"],
    }  # fmt: skip
    after = {
        "device": about["device"], "processor": about["processor"], "threads": about["threads"],
        "python": versions["python"], "torch": versions["torch"], "commit": about["commit"],
        "command": task.command,
    }  # fmt: skip
    return [
        rounded({**before, "sampled_by": by, **made, **scores_of(task, by, arguments), **after})
        for by in task.sampled_by
    ]


def _four(schedule):
    values = schedule.values()
    return {name: values.get(name) for name in ("start", "end", "tau", "epsilon")}


def middle(schedule: Schedule, b: float) -> float:
    """log SNR at t = T/2, where an input scaled by b has b^2 times the signal."""
    curve = log_snr(schedule.log_alpha_bar().detach())
    return (curve[schedule.timesteps // 2] + 2 * curve.new_tensor(b).log()).item()


def scores_of(task: Task, by: str, arguments: dict) -> dict:
    """All judges' scores: the run's own, or of images that cosine drew from the same noise.

    The latter are kept in the run's folder as soon as they are there.
    """
    if by == "own":
        return {name: task.summary[name] for name in SCORES}
    path = task.folder / "sampled_by_cosine.json"
    if not path.exists():
        places = task.places
        flags = arguments | {"data_dir": places.data_dir, "cache_dir": "cache"}
        device = setup(places.device, threads=places.threads)
        scores = judge_checkpoint(
            checkpoint.newest(task.folder),
            Judges.from_flags(device, **flags),
            device,
            arguments["eval_samples"],
            SamplerSettings.from_flags(**flags),
            sampling_schedule=by,
            told="nearest",
        )
        checkpoint.write_json(path, scores)
    scores = read_json(path)
    return {name: scores[name] for name in SCORES}
