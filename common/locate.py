"""Which run, checkpoint or schedule a name means: a path, a number, or `latest`; no torch.

Every flag that takes a run takes it in all of these forms:

    runs/00003-train-seed0   runs/00003   00003   3   latest   other_runs/latest
    runs/00005/trials/7      a trial of a search
"""

import glob
import os
import re
from pathlib import Path

from common.errors import parse_json

ROOT = Path(__file__).resolve().parent.parent  # of this project's files
CHECKPOINTS = "checkpoints/step_*.pt"


def find_run(
    name: str,
    runs_dir: str = "runs",
    kind: str = "*",
    holding: str = "args.json",
    unfinished_first: bool = False,
) -> Path:
    """The folder of a run; `latest` is the newest one of its kind that holds such a file."""
    path = Path(name)
    root = path.parent if "/" in name else Path(runs_dir)
    if path.name == "latest" and not path.exists():
        runs = [run for run in runs_in(root, kind) if any(run.glob(holding))]
        if unfinished_first:
            runs = [run for run in runs if not (run / "summary.json").exists()] or runs
        if runs:
            return runs[-1]
        what = f"{'' if kind == '*' else f'{kind} '}run"
        what += {"args.json": "", CHECKPOINTS: " with a checkpoint"}.get(
            holding, f" with {holding}"
        )
        raise ValueError(f"no {what} in {root}")
    if path.parent.name == "trials" and path.name.isdecimal():
        path = find_run(str(path.parents[1]), runs_dir) / "trials" / f"{int(path.name):03d}"
    if (path / "args.json").is_file():
        return path
    runs = named(root, path.name) or ([] if "/" in name else named(Path(), path.name))
    if len(runs) > 1:
        raise ValueError(f"{' and '.join(run.name for run in runs[:2])} both match; give one")
    if not runs:
        raise ValueError("not a run folder (no args.json in it), nor the number of one")
    return runs[0]


def named(root: Path, name: str) -> list[Path]:
    """The runs in a folder that have a number (3, 00003), or whose name begins so."""
    start = f"{int(name):05d}" if re.fullmatch(r"[0-9]{1,9}", name) else glob.escape(name)
    return sorted(path.parent for path in root.glob(f"{start}-*/args.json"))


def runs_in(root: Path, kind: str = "*") -> list[Path]:
    """The numbered runs of a folder, the newest last: 100000 comes after 99999."""
    runs = (path.parent for path in root.glob(f"[0-9]*-{kind}-*/args.json"))
    numbered = [run for run in runs if re.match(r"[0-9]{1,9}-", run.name)]
    return sorted(numbered, key=lambda run: (int(run.name.split("-")[0]), run.name))


def find_trained(name: str, runs_dir: str = "runs") -> Path:
    """The folder of a run that has a checkpoint; of a finished search, that of its best trial."""
    if any(Path(name).glob(CHECKPOINTS)):  # whatever else it holds
        return Path(name)
    run = find_run(name, runs_dir, holding=CHECKPOINTS)
    if (run / "trials").is_dir():
        try:
            best = int(parse_json((run / "summary.json").read_bytes())["best"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            raise ValueError(
                f"an unfinished search; name a trial, such as {run}/trials/0"
            ) from None
        run = run / "trials" / f"{best:03d}"
    if not any(run.glob(CHECKPOINTS)):
        raise ValueError(f"no checkpoint in {run}")
    return run


def is_file(name: str, suffix: str) -> bool:
    """Whether it is one; a ValueError if it is called like one and is not there."""
    if Path(name).is_file():
        return True
    if name.endswith(suffix) and not os.path.lexists(name):
        raise ValueError("no such file")
    return False


def find_checkpoint(name: str, runs_dir: str = "runs") -> str:
    """A checkpoint's file, or the newest one of a run."""
    if is_file(name, ".pt"):
        return name
    try:
        return str(max(find_trained(name, runs_dir).glob(CHECKPOINTS)))
    except ValueError as error:
        raise ValueError(f"neither a checkpoint nor a run that has one: {error}") from None


def find_schedule(name: str, runs_dir: str = "runs") -> str:
    """A schedule's file, or the one of a run."""
    if is_file(name, ".json"):
        return name
    try:
        path = find_run(name, runs_dir, holding="schedule.json") / "schedule.json"
    except ValueError as error:
        raise ValueError(f"neither a schedule.json nor a run that has one: {error}") from None
    if not path.is_file():
        raise ValueError(f"no schedule.json in {path.parent}")
    return str(path)
