"""Runs that are killed or interrupted at random moments, and two of them in one folder."""

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from harness import Script
from test_runs import DieAtStep
from test_search import rows_of

from benchmarks.faults.row import SAME_BITS, Row
from benchmarks.faults.scripts import (
    KINDS,
    SEEN,
    check,
    finish,
    has_begun,
    resume,
    start,
    undisturbed,
    until_free,
)


def killed(i: int, folder: Path, kind: str) -> None:
    """SIGKILL at a random moment, and again while it resumes; then it is left to finish."""
    rng, (_, seconds) = random.Random(f"{kind} {i}"), undisturbed(kind)
    script, process = start(kind, folder)
    while process.is_alive() and not has_begun(script):
        process.join(0.01)
    for again in (True, False):
        process.join(seconds * rng.random())
        process.kill()
        process.join()
        if again:
            process = resume(script, kind)
    finish(script, kind)


def _killed(kind: str):
    def case(i: int, folder: Path) -> None:
        killed(i, folder, kind)

    case.__name__ = f"killed, {kind}"
    case.__module__ = __name__
    return case


def interrupted(i: int, folder: Path) -> None:
    """SIGINT or SIGTERM at a random moment: exit 130 or 143 after a save, or the run's end."""
    kind, number = KINDS[i % len(KINDS)], (signal.SIGINT, signal.SIGTERM)[i // len(KINDS) % 2]
    seconds = undisturbed(kind)[1]
    script, process = start(kind, folder, "--save_seconds", "1000")
    while process.is_alive() and not any(text in script.said() for text in SEEN):
        process.join(0.01)
    process.join(seconds * random.Random(i).random())
    if process.is_alive():
        os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode in (0, 128 + number), (process.exitcode, script.said()[-300:])
    assert "Traceback" not in script.said()
    if process.exitcode == 0:
        check(script, kind)
        return
    assert "--resume" in script.last_line(), script.last_line()
    finish(script, kind)


def process_of_a_search(i: int, folder: Path) -> None:
    """One worker gets SIGKILL and the search goes on, or all processes get SIGTERM at once."""
    kind, rng = ("search", "search, two jobs")[i // 2 % 2], random.Random(i)
    seconds = undisturbed(kind)[1]
    script, process = start(kind, folder)
    while process.is_alive() and not any(text in script.said() for text in SEEN):
        process.join(0.01)
    process.join(seconds * rng.random())
    workers = children_of(process.pid)
    if i % 2:
        for pid in (*workers, process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode in (0, 143), (process.exitcode, script.said()[-300:])
        finish(script, kind) if process.exitcode else check(script, kind)
        return
    if workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
    process.join(120)
    rows = rows_of(script)
    failed = [row["reason"] for row in rows if row["status"] != "ok"]
    assert process.exitcode == 0 and len(rows) == 5, (process.exitcode, script.said()[-300:])
    assert len(failed) <= 1 and all("its process was killed" in text for text in failed), failed


def children_of(pid: int | None) -> list[int]:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    return list(map(int, subprocess.run(command, capture_output=True, text=True).stdout.split()))


def two_at_once(i: int, folder: Path) -> None:
    """Of two resumes of one run at the same moment, one goes on and the other exits 2."""
    script, process = start("train", folder, sabotage=DieAtStep(1 + i % 9))
    process.join(60)
    until_free(script)
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
    check(script, "train")


KILLED = {
    "train": ("`train_mnist.py`", 20),
    "coupled": ("`train_mnist_bilevel_ZO.py --recipe exact`", 12),
    "uncoupled": ("`train_mnist_bilevel_ZO.py --recipe ours`", 12),
    "search": ("`train_mnist_bayesian.py`", 8),
    "search, two jobs": ("`train_mnist_bayesian.py --jobs 2`", 8),
    "study": ("`python -m studies.lr_schedules`", 8),
    "reward": ("`finetune_reward.py`", 8),
}
ROWS = [
    Row(f"{script} killed at a random moment, and again", SAME_BITS, _killed(kind), whole, 1)
    for kind, (script, whole) in KILLED.items()
]
ROWS += [
    Row("SIGINT or SIGTERM at a random moment", "exit 130 or 143 after a save; " + SAME_BITS,
        interrupted, 28, 2),
    Row("a process of a search is killed, or all get SIGTERM",
        "it goes on without the trial; or exit 143, and " + SAME_BITS, process_of_a_search, 8, 2),
    Row("two processes resume one run", "one goes on, the other exits 2", two_at_once, 20, 1),
]  # fmt: skip
