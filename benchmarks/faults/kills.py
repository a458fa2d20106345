"""Runs that are killed or interrupted at random moments, and two of them in one folder."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Script
from test_reproduce_running import LONG
from test_runs import DieAtStep

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
from benchmarks.record import ROOT


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


CELLS = ["default", "end 0.9"]


def killed_comparison(i: int, folder: Path) -> None:
    """reproduce.py is killed; its runs end with it, and the same command finishes them."""
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3]
    places = ["--runs_dir", folder / "runs", "--results_dir", folder / "docs" / "results"]
    methods = CELLS[: 1 + i // 3 % 2]
    flags = ["--methods", *methods, "--seeds", "1", "--device", "cpu", *places]
    code = LONG.replace("{EPOCHS}", "2").replace("train=", "judged=20, train=")
    command = [sys.executable, "-c", code, *map(str, flags)]
    with open(folder / "output.txt", "w") as output:
        first = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        while first.poll() is None and not list(folder.glob("runs/quick/*/0*/checkpoints/*.pt")):
            time.sleep(0.05)
        time.sleep(random.Random(i).random())
        first.send_signal(number)
        assert first.wait(60) in (-9, 128 + number, 0)
        end = time.monotonic() + 30
        while running := processes_of(folder):
            assert time.monotonic() < end, f"still running: {running}"
            time.sleep(0.05)
        ended = list(folder.glob("runs/quick/*/0*/summary.json"))
        again = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output)
    assert again.returncode == 0, (folder / "output.txt").read_text()[-500:]
    logs = {log.parent: log.read_text() for log in folder.glob("runs/quick/*/0*/log.txt")}
    assert len(logs) == len(methods) and all("finished: " in log for log in logs.values())
    (begun,) = folder.glob("runs/quick/default-seed0/0*")
    assert ("resumed from" in logs[begun]) == (begun / "summary.json" not in ended)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the runs in a folder."""
    lines = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout
    return [line for line in lines.splitlines() if f"{folder}/runs/quick/" in line]


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
    "train": ("`train_mnist.py`", 50),
    "coupled": ("`train_mnist_bilevel_ZO.py --recipe exact`", 30),
    "uncoupled": ("`train_mnist_bilevel_ZO.py --recipe ours`", 30),
    "search": ("`train_mnist_bayesian.py`", 25),
    "search, two jobs": ("`train_mnist_bayesian.py --jobs 2`", 25),
    "study": ("`python -m studies.lr_schedules`", 20),
    "reward": ("`finetune_reward.py`", 20),
}
ROWS = [
    Row(f"{script} killed at a random moment, and again", SAME_BITS, _killed(kind), whole, 1)
    for kind, (script, whole) in KILLED.items()
]
ROWS += [
    Row("`reproduce.py` killed or interrupted", "its runs end with it; the same command finishes",
        killed_comparison, 6, 1),
    Row("SIGINT or SIGTERM at a random moment", "exit 130 or 143 after a save; " + SAME_BITS,
        interrupted, 42, 2),
    Row("two processes resume one run", "one goes on, the other exits 2", two_at_once, 20, 1),
]  # fmt: skip
