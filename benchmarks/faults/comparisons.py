"""Commands that start many runs: killed or interrupted, their runs end, and are resumed later."""

import functools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conftest import MNIST_DIR
from test_noise_schedules import TINY as NOISE
from test_reproduce_running import LONG, processes_in
from test_reward_runs import TINY as REWARD
from test_reward_runs import kept

from benchmarks.faults import scripts
from benchmarks.faults.row import DoesNotApply, Row
from benchmarks.record import ROOT
from common.tables import read_text_csv

STUDY = """
import sys
from studies.{study} import __main__ as study, report, tasks
{smaller}
args = study.make_parser().parse_args(sys.argv[1:])
sys.exit(study.guarded(study.main, args, "study"))
"""
SMALLER_NOISE = f"""
tasks.SHARED = {NOISE.replace("--limit_batches 2", "--limit_batches 60 --save_seconds 0")!r}
report.write = report.draw_samples = lambda *_: None  # figures take seconds
"""
SMALLER_REWARD = f"""
study.FIRST = ("unguided", "bilevel")
tasks.SHARED["first"] = {" ".join([*REWARD[3:], "--save_seconds", "0"])!r}
"""


class Command(NamedTuple):
    """A command at the size of seconds, its flags in a folder, and the file of its results."""

    code: str
    times: int  # that it is killed
    flags: Callable[[Path], list]
    results: str = ""  # none: the runs' own

    def argv(self, folder: Path) -> list[str]:
        flags = ["--runs_dir", folder / "runs", *self.flags(folder)]
        return [sys.executable, "-c", self.code, *map(str, flags)]

    def outcome(self, folder: Path) -> Any:
        """What must not depend on kills: the rows of its results without those of the clock."""
        if not self.results:
            return [kept(run) for run in runs_in(folder)]
        rows = read_text_csv(folder / "docs" / "results" / self.results)
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def _reproduce_flags(folder: Path) -> list:
    cells = ["--methods", "default", "end 0.9", "--seeds", "1", "--device", "cpu"]
    return ["--results_dir", folder / "docs" / "results", *cells]


def _noise_flags(folder: Path) -> list:
    if not (MNIST_DIR / "MNIST" / "raw").is_dir():
        raise DoesNotApply("no MNIST")
    part = "--datasets mnist --sizes 8 --seeds 1 --recipes linear".split()
    return ["--results_dir", folder / "docs" / "results", "--data_dir", MNIST_DIR, *part]


def _reward_flags(folder: Path) -> list:
    return ["--scale", "first", "--jobs", "1", *scripts.places("reward", folder)]


COMMANDS = {
    "`reproduce.py`": Command(
        LONG.replace("{EPOCHS}", "2").replace("train=", "judged=20, train="),
        6, _reproduce_flags, "reproduce_quick.csv",
    ),
    "`python -m studies.noise_schedules`": Command(
        STUDY.format(study="noise_schedules", smaller=SMALLER_NOISE),
        3, _noise_flags, "noise_schedules.csv",
    ),
    "`python -m studies.reward`": Command(
        STUDY.format(study="reward", smaller=SMALLER_REWARD), 3, _reward_flags
    ),
}  # fmt: skip


@functools.cache
def undisturbed(name: str) -> Any:
    """The outcome of a command that nothing disturbs."""
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        done = subprocess.run(command.argv(Path(folder)), cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr[-500:]
        return command.outcome(Path(folder))


def killed(i: int, folder: Path, name: str) -> None:
    """A kill or a signal once a run has a checkpoint: its runs end with it, and are resumed."""
    command, number = COMMANDS[name], (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3]
    expected, argv = undisturbed(name), command.argv(folder)
    with open(folder / "output.txt", "w") as output:
        first = subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=output)
        while first.poll() is None and not any(map(has_checkpoint, runs_in(folder))):
            time.sleep(0.05)
        time.sleep(random.Random(i).random())
        first.send_signal(number)
        assert first.wait(60) in (-number, 128 + number, 0)
        end = time.monotonic() + 30
        while running := processes_in(folder / "runs"):
            assert time.monotonic() < end, f"still running: {running}"
            time.sleep(0.05)
        begun = {
            run: has_checkpoint(run) and not (run / "summary.json").exists()
            for run in runs_in(folder)
        }
        again = subprocess.run(argv, cwd=ROOT, stdout=output, stderr=output)
    assert again.returncode == 0, (folder / "output.txt").read_text()[-500:]
    for run in runs_in(folder):
        log = (run / "log.txt").read_text()
        assert "finished: " in log and ("resumed from" in log) == begun.get(run, False), run
    assert command.outcome(folder) == expected, "other numbers"


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("runs/**/0*-*-seed*/args.json"))


def has_checkpoint(run: Path) -> bool:
    return any(run.glob("checkpoints/step_*.pt"))


def _killed(name: str):
    def case(i: int, folder: Path) -> None:
        killed(i, folder, name)

    case.__module__, case.__name__ = __name__, f"killed, {name.strip('`')}"
    return case


PROMISE = "its runs end with it; the same command ends with the numbers of an undisturbed one"
ROWS = [
    Row(f"{name} killed or interrupted", PROMISE, _killed(name), command.times, 1)
    for name, command in COMMANDS.items()
]
