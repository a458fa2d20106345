"""Faults of whole runs: kills, signals, full disks, numbers that are not finite, two at once."""

import errno
import fcntl
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Script
from test_bilevel import TINY as UNCOUPLED
from test_bilevel import PoisonFid
from test_checkpoint import same
from test_coupled import EXACT
from test_reproduce_running import LONG, ROOT
from test_runs import TINY as TRAIN
from test_runs import DieAtStep, FullDisk, PoisonAtStep, result
from test_search import FLAGS as SEARCH
from test_search import diverge, kill_self, rows_of, spoiled, weights_of

from benchmarks.faults.row import Row

FLAGS = {
    "train": ("train", TRAIN),
    "uncoupled": ("bilevel", UNCOUPLED),
    "coupled": ("bilevel", [*UNCOUPLED, *EXACT, "--limit_batches", "4"]),
    "search": ("search", SEARCH),
    "search, two jobs": ("search", [*SEARCH, "--jobs", "2"]),
    "study": (
        "lr_schedules",
        """--cpu --threads 1 --steps 12 --batch_size 8 --points 60 --eval_points 20 --log_freq 5
        --save_seconds 0 --sets line --seeds 2""".split(),
    ),
}
KINDS = ["train", "coupled", "uncoupled", "search", "search, two jobs", "study"]


def few_sampling_steps() -> None:
    """In a run's own process: the study's evaluation visits 5 of its 100 steps."""
    from studies.lr_schedules import judging

    judging.TIMESTEPS = 5


def patch_of(kind: str):
    return few_sampling_steps if kind == "study" else None


def start(kind: str, folder: Path, *flags, sabotage=None):
    """A script of a kind in a folder, started."""
    folder.mkdir(exist_ok=True)
    script = Script(folder, FLAGS[kind][0])
    return script, script.start(*FLAGS[kind][1], *flags, sabotage=sabotage or patch_of(kind))


def resume(script: Script, kind: str) -> None:
    """Resume to the end; the processes of a killed search let go of its folder first."""
    until_free(script)
    code = script.run("--resume", "latest", sabotage=patch_of(kind))
    assert code == 0, script.said()[-500:]


def until_free(script: Script) -> None:
    for path in script.folder.glob("runs/*/.lock"):
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def outcome(script: Script, kind: str):
    """What must be the same, however often a run was killed."""
    if kind.startswith("search"):
        return rows_of(script), weights_of(script)
    found = result(script.only)
    if kind == "study":
        for group in found["groups"].values():
            group.pop("clock")
    return found


@functools.cache
def undisturbed(kind: str):
    """The outcome of a run that nothing disturbs, and its seconds."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        script, process = start(kind, Path(folder))
        process.join(300)
        assert process.exitcode == 0, script.said()[-500:]
        summary = json.loads((script.only / "summary.json").read_text())
        return outcome(script, kind), summary["seconds"]


def has_begun(script: Script) -> bool:
    return bool(list(script.folder.glob("runs/*/args.json")))


def killed(i: int, folder: Path, kind: str) -> None:
    """SIGKILL at a random moment, and again while it resumes; then it is left to finish."""
    rng, (expected, seconds) = random.Random(f"{kind} {i}"), undisturbed(kind)
    script, process = start(kind, folder)
    while process.is_alive() and not has_begun(script):
        process.join(0.01)
    for again in (True, False):
        process.join(seconds * rng.random())
        process.kill()
        process.join()
        until_free(script)
        if again:
            process = script.start("--resume", "latest", sabotage=patch_of(kind))
    resume(script, kind)
    assert same(outcome(script, kind), expected), "other bits"


def _killed(kind: str):
    def case(i: int, folder: Path) -> None:
        killed(i, folder, kind)

    case.__name__ = f"killed, {kind}"
    case.__module__ = __name__
    return case


def killed_comparison(i: int, folder: Path) -> None:
    """reproduce.py is killed; its runs end with it, and the same command finishes them."""
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3]
    places = ["--runs_dir", folder / "runs", "--results_dir", folder / "docs" / "results"]
    flags = ["--methods", "default", "bilevel zo", "--seeds", "1", "--device", "cpu", *places]
    code = LONG.replace("{EPOCHS}", "12").replace(
        "train=", 'bilevel="--epochs 2 --initial_epoch 1 --zo_samples 4 --limit_batches 3", train='
    )
    command = [sys.executable, "-c", code, *map(str, flags)]
    with open(folder / "output.txt", "w") as output:
        first = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        while first.poll() is None and not list(folder.glob("runs/quick/*/0*/checkpoints/*.pt")):
            time.sleep(0.05)
        time.sleep(random.Random(i).random())
        first.send_signal(number)
        assert first.wait(60) in (-9, 128 + number, 0)
        again = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output)
    assert again.returncode == 0, (folder / "output.txt").read_text()[-500:]
    assert len(list(folder.glob("runs/quick/*/0*/summary.json"))) == 2


def interrupted(i: int, folder: Path) -> None:
    """SIGINT or SIGTERM at a random moment: exit 130 or 143 after a save, or the run's end."""
    kind, number = KINDS[i % len(KINDS)], (signal.SIGINT, signal.SIGTERM)[i // len(KINDS) % 2]
    expected, seconds = undisturbed(kind)
    script, process = start(kind, folder, "--save_seconds", "1000")
    while process.is_alive() and "images of" not in script.said() and "sets" not in script.said():
        process.join(0.01)
    process.join(seconds * random.Random(i).random())
    if process.is_alive():
        os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode in (0, 128 + number), (process.exitcode, script.said()[-300:])
    assert "Traceback" not in script.said()
    if process.exitcode:
        assert "--resume" in script.last_line(), script.last_line()
        resume(script, kind)
    assert same(outcome(script, kind), expected), "other bits"


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
    resume(script, kind)
    expected = undisturbed(kind)[0]
    assert same(outcome(script, kind), expected), "other bits"


def full_disk_while_saving(i: int, folder: Path) -> None:
    """The checkpoint of a step: the one before it stays."""
    step = 2 + i % 8
    script, process = start("train", folder, sabotage=FullDisk(step))
    process.join(60)
    assert process.exitcode == 1 and "No space left" in script.last_line(), script.said()[-300:]
    resume(script, "train")
    assert same(outcome(script, "train"), undisturbed("train")[0])


NOT_FINITE = [
    *(("train", PoisonAtStep(step, part)) for step in (1, 4, 10) for part in (False, True)),
    *(("uncoupled", PoisonFid(call, part)) for call in (1, 3, 16) for part in (False, True)),
    *(("coupled", PoisonFid(call, part)) for call in (1, 2) for part in (False, True)),
]


def not_finite(i: int, folder: Path) -> None:
    """It ends before the number is saved, and is resumed without it."""
    kind, poison = NOT_FINITE[i % len(NOT_FINITE)]
    script, process = start(kind, folder, sabotage=poison)
    process.join(60)
    assert process.exitcode == 1 and "Traceback" not in script.said(), script.said()[-300:]
    assert "--lr" in script.last_line()
    resume(script, kind)
    assert same(outcome(script, kind), undisturbed(kind)[0])


def two_at_once(i: int, folder: Path) -> None:
    """Of two resumes of one run at the same moment, one goes on and the other exits 2."""
    script, process = start("train", folder, sabotage=DieAtStep(1 + i % 9))
    process.join(60)
    both = [Script(folder), Script(folder)]
    for n, each in enumerate(both):
        each.output = folder / f"{n}.txt"
    processes = [each.start("--resume", "latest") for each in both]
    for process in processes:
        process.join(60)
    codes = sorted(process.exitcode for process in processes)
    last = [each.last_line() for each in both]
    # the second may come when the first has finished
    done = any("nothing to resume" in line for line in last)
    assert codes == [0, 2] or (codes == [0, 0] and done), (codes, last)
    assert same(outcome(script, "train"), undisturbed("train")[0])


FAILED_TRIALS = [{0}, {2}, {4}, {0, 1, 3}, set(range(5))]


def failed_trial(i: int, folder: Path) -> None:
    """The ledger says which trial failed and why; the search goes on with the others."""
    which, how = FAILED_TRIALS[i % 5], (diverge, kill_self, poisoned_fid)[i // 5 % 3]
    jobs = ["--jobs", str(1 + i // 15 % 2)]
    sabotage = functools.partial(spoiled, which, how)
    script, process = start("search", folder, *jobs, sabotage=sabotage)
    process.join(120)
    rows = rows_of(script)
    assert process.exitcode == (1 if len(which) == 5 else 0), script.said()[-300:]
    assert {row["trial"] for row in rows if row["status"] == "failed"} == which
    assert all(row["reason"] for row in rows if row["status"] == "failed")
    assert "Traceback" not in script.said()


def poisoned_fid():
    """In a trial's process: its FID is not a number."""
    from common import judging

    judging.METRICS[("fid",)] = lambda *_: (_ for _ in ()).throw(ValueError("the FID is nan"))


SAME_BITS = "resumed, it ends with the same bits as a run that nothing disturbs"
ROWS = [
    Row(f"killed twice at random moments: {kind}", SAME_BITS, _killed(kind), whole, 2)
    for kind, whole in zip(KINDS, (50, 40, 30, 25, 25, 20), strict=True)
]
ROWS += [
    Row("`reproduce.py` killed or interrupted", "its runs end with it; the same command finishes",
        killed_comparison, 6, 0),
    Row("SIGINT or SIGTERM at a random moment", "exit 130 or 143 after a save; " + SAME_BITS,
        interrupted, 40, 4),
    Row("disk full in each place that writes", "one line, exit 1; " + SAME_BITS, full_disk, 22, 4),
    Row("disk full while a checkpoint is saved", "the one before it is whole; " + SAME_BITS,
        full_disk_while_saving, 10, 2),
    Row("loss, gradient or FID not finite", "exit 1 before it is saved; " + SAME_BITS,
        not_finite, 32, 3),
    Row("two processes resume one run", "one goes on, the other exits 2", two_at_once, 20, 2),
    Row("a trial fails, dies or has no FID", "the ledger says why; the search goes on",
        failed_trial, 30, 3),
]  # fmt: skip
