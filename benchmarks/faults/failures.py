"""What fails inside a run: the disk, a number that is not finite, a trial of a search."""

import errno
import functools
import os
import tempfile
from pathlib import Path
from unittest import mock

from test_bilevel import PoisonFid
from test_runs import FullDisk, PoisonAtStep
from test_search import diverge, kill_self, rows_of, spoiled

import train_mnist
from benchmarks.faults.row import SAME_BITS, Row
from benchmarks.faults.scripts import FLAGS, finish, start
from common import judging


class FullAt:
    """No space is left for files with a text in their path; a cache is done without."""

    def __init__(self, text: str):
        self.text = text

    def __call__(self):
        import builtins
        import io

        real, text = open, self.text

        def opened(file, mode="r", *rest, **named):
            if text in str(file) and set(mode) & set("wax+"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            return real(file, mode, *rest, **named)

        def temporary(*_, dir=None, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(dir))

        builtins.open = io.open = opened
        if text == "cache":
            tempfile.NamedTemporaryFile = temporary


PLACES = ["checkpoints", "losses.csv", "scores.csv", "timing.csv", "samples", "summary.json",
    "log.txt", "schedule.json", "search.jsonl", "args.json", "cache"]  # fmt: skip


def full_disk(i: int, folder: Path) -> None:
    """One line and exit 1, and the run is finished once there is space."""
    place = PLACES[i % len(PLACES)]
    kind = "search" if place in ("search.jsonl", "cache") else ("train", "coupled")[i // 11 % 2]
    place = "iterations.csv" if kind == "coupled" and place == "losses.csv" else place
    flags = ["--cache_dir", folder / "cache"]
    script, process = start(kind, folder, *flags, sabotage=FullAt(place))
    process.join(120)
    assert "Traceback" not in script.said(), script.said()[-500:]
    if place == "cache":
        assert process.exitcode == 0 and "not cached" in script.said()
        return
    assert process.exitcode == 1 and "No space left" in script.last_line(), script.said()[-300:]
    if place == "args.json":  # there is no run yet
        assert script.run(*FLAGS[kind][1]) == 0
        return
    finish(script, kind)


def full_disk_while_saving(i: int, folder: Path) -> None:
    """The checkpoint of a step: the one before it stays."""
    step = 2 + i % 8
    script, process = start("train", folder, sabotage=FullDisk(step))
    process.join(60)
    assert process.exitcode == 1 and "No space left" in script.last_line(), script.said()[-300:]
    finish(script, "train")


class PoisonSlope:
    """From a call on, a gradient of the upper level is not a number, though its value is one."""

    def __init__(self, function: str, call: int):
        self.function, self.call = function, call

    def __call__(self):
        from common import upper_level

        owner = upper_level if hasattr(upper_level, self.function) else upper_level.UpperLevel
        real, call, calls = getattr(owner, self.function), self.call, []

        def poisoned(*args, **named):
            calls.append(1)
            result = real(*args, **named)
            if len(calls) < call:
                return result
            spoil = lambda slope: slope._replace(gradient=slope.gradient * float("nan"))  # noqa: E731
            return [spoil(slope) for slope in result] if isinstance(result, list) else spoil(result)

        setattr(owner, self.function, poisoned)


NOT_FINITE = [
    *(("train", PoisonAtStep(step, part)) for step in (1, 4, 10) for part in (False, True)),
    *(("uncoupled", PoisonFid(call, part)) for call in (1, 3, 16) for part in (False, True)),
    *(("coupled", PoisonFid(call, part)) for call in (1, 2) for part in (False, True)),
    *(("uncoupled", PoisonSlope("two_point", call)) for call in (1, 2, 5, 8)),
    *(("coupled", PoisonSlope("reverse_slopes", call)) for call in (1, 2)),
]


def not_finite(i: int, folder: Path) -> None:
    """It ends before the number is saved, and is resumed without it."""
    kind, poison = NOT_FINITE[i * 7 % len(NOT_FINITE)]  # of all kinds, soon
    script, process = start(kind, folder, sabotage=poison)
    process.join(60)
    what = f"{kind}, {type(poison).__name__} {vars(poison)}: "
    assert process.exitcode == 1 and "Traceback" not in script.said(), what + script.said()[-300:]
    assert "--lr" in script.last_line(), what + script.last_line()
    finish(script, kind)


FAILED_TRIALS = [{0}, {2}, {4}, {0, 1, 3}, set(range(5))]


def without_fid(which: set[int]) -> None:
    """In a trial's process, which later trials share: the FID of those in `which` is nan."""
    real = train_mnist.train

    def train(args, trial, images, on_epoch):
        spoilt = {("fid",): no_number} if int(trial.folder.name) in which else {}
        with mock.patch.dict(judging.METRICS, spoilt):
            return real(args, trial, images, on_epoch)

    train_mnist.train = train


def no_number(*_):
    raise ValueError("the FID is nan")


FAILURES = {
    "the loss is nan": lambda which: functools.partial(spoiled, which, diverge),
    "its process was killed": lambda which: functools.partial(spoiled, which, kill_self),
    "the FID is nan": lambda which: functools.partial(without_fid, which),
}


def failed_trial(i: int, folder: Path) -> None:
    """The ledger says which trial failed and why; the search goes on with the others."""
    which, (why, sabotage) = FAILED_TRIALS[i % 5], list(FAILURES.items())[i // 5 % 3]
    jobs = ["--jobs", str(1 + i % 2)]
    script, process = start("search", folder, *jobs, sabotage=sabotage(which))
    process.join(120)
    rows = rows_of(script)
    assert process.exitcode == (1 if len(which) == 5 else 0), script.said()[-300:]
    failed = {row["trial"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert failed.keys() == which and len(rows) == 5, (failed, len(rows))
    assert all(why in reason for reason in failed.values()), failed
    assert "Traceback" not in script.said()


ROWS = [
    Row("disk full in each place that writes", "one line, exit 1; " + SAME_BITS, full_disk, 22, 2),
    Row("disk full while a checkpoint is saved", "the one before it is whole; " + SAME_BITS,
        full_disk_while_saving, 10, 1),
    Row("loss, gradient, zeroth-order difference or FID not finite",
        "exit 1 before it is saved; " + SAME_BITS, not_finite, len(NOT_FINITE), 2),
    Row("a trial fails, dies or has no FID", "the ledger says why; the search goes on",
        failed_trial, 15, 2),
]  # fmt: skip
