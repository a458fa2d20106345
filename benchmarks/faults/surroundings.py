"""Odd surroundings of a script: no HOME, no git, other locales, folders and rights."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import Script
from test_runs import TINY, DieAtStep

from benchmarks.faults.launch import ENVIRONMENT, FLAGS, case_of, fine, one_line, script
from benchmarks.faults.row import DoesNotApply, Row
from benchmarks.record import ROOT


def no_home(folder):
    fine(script(folder, *FLAGS, without=["HOME", "USER", "LOGNAME"]), folder / "runs")


def no_git(folder):
    fine(script(folder, *FLAGS, env={"PATH": "/nowhere"}), folder / "runs")


def closed_output(folder):
    done = script(folder, *FLAGS, before=lambda: (os.close(1), os.close(2)))
    fine(done, folder / "runs")


def no_terminal(folder):
    fine(script(folder, *FLAGS, stdin=subprocess.DEVNULL, start_new_session=True), folder / "runs")


def ascii_locale(folder):
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    runs = folder / "rüns ± 日本"
    fine(script(folder, *FLAGS, "--runs_dir", os.fsencode(runs).decode(), env=env), runs)


def path_in_no_encoding(folder):
    runs = os.fsdecode(os.fsencode(folder) + b"/\xff runs")
    command = [sys.executable, str(ROOT / "train_mnist.py"), *FLAGS, "--runs_dir", runs]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    fine(done, Path(runs))


def spaces(folder):
    (folder / "a b 'c").mkdir()
    fine(script(folder / "a b 'c", *FLAGS), folder / "a b 'c" / "runs")


def optimised(folder):
    fine(script(folder, *FLAGS, python=["-O"]), folder / "runs")


def read_only_checkout(folder):
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("runs", ".git", "__pycache__", "cache", "data", "figures")
    shutil.copytree(ROOT, copy, ignore=ignored)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        place = folder / "work"
        place.mkdir()
        fine(script(place, *FLAGS, root=copy, before=unprivileged()), place / "runs")
    finally:
        for path in [copy, *(p for p in copy.rglob("*") if p.is_dir())]:
            path.chmod(0o755)


PR_CAPBSET_DROP = 24
RIGHTS = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: root's, over any file


def unprivileged():
    """What a process calls before it becomes the script: permissions hold for it, root or not."""
    if sys.platform != "linux":
        raise DoesNotApply("needs Linux")
    drop = ctypes.CDLL(None).prctl
    return lambda: [drop(PR_CAPBSET_DROP, right, 0, 0, 0) for right in RIGHTS if not os.getuid()]


def no_right_to_write(folder):
    """A folder in which this user may not write: one line."""
    place = folder / "work"
    place.mkdir()
    place.chmod(0o555)
    try:
        assert "denied" in one_line(script(place, *FLAGS, before=unprivileged()), 1)
    finally:
        place.chmod(0o755)


class ClockBack:
    """The clock goes back by a year in the middle of a run."""

    def __call__(self):
        from common import run

        real, calls = run.datetime, iter(range(10**6))

        class Clock:
            @staticmethod
            def now():
                now = real.now()
                return now if next(calls) < 4 else now.replace(year=now.year - 1)

        run.datetime = Clock


def clock_that_goes_back(folder):
    started = Script(folder)
    assert started.run(*TINY, sabotage=ClockBack()) == 0, started.said()


def after_99999(folder):
    """Run folders of more than five digits, and strangers among them."""
    started = Script(folder)
    names = ("99999-x", "100000-train-seed0", "notes", "00003-train-seed0.txt", "999999999999-x")
    for name in names:
        (folder / "runs" / name).mkdir(parents=True)
    assert started.run(*TINY, sabotage=DieAtStep(3)) == -9
    assert started.run("--resume", "latest") == 0, started.said()
    assert (folder / "runs" / "100001-train-seed0" / "summary.json").exists()


CASES = [ascii_locale, no_right_to_write, after_99999, no_home, no_git, closed_output, no_terminal,
    path_in_no_encoding, spaces, optimised, read_only_checkout, clock_that_goes_back]  # fmt: skip
ROWS = [
    Row("no HOME, git, terminal or output; other locales, clocks, folders and rights",
        "it works, or one line", case_of(CASES, "surroundings"), len(CASES), 2),
]  # fmt: skip
