"""Odd surroundings of a script: no HOME, no git, other locales, folders and users, limits."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Script
from test_runs import TINY, DieAtStep

from benchmarks.faults.row import DoesNotApply, Row
from benchmarks.record import ROOT

RUN = "--dataset digits --cpu --threads 1 --model_base_dim 4 --epochs 1 --limit_batches 2"
RUN += " --timesteps 20 --backward_steps 2 --n_samples 2 --fid_samples 0 --eval_samples 0"
FLAGS = RUN.split()
SHORT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def script(folder: Path, *flags, python=(), before=None, **options) -> subprocess.CompletedProcess:
    """train_mnist.py from the command line, in a folder; `before` runs in its process first."""
    root = options.pop("root", ROOT)
    command = [sys.executable, *python, str(root / "train_mnist.py"), *map(str, flags)]
    environment = {**os.environ, **SHORT, **options.pop("env", {})}
    for name in options.pop("without", ()):
        environment.pop(name, None)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        command, cwd=folder, env=environment, preexec_fn=before, timeout=120, **options
    )


def one_line(done: subprocess.CompletedProcess, code: int) -> str:
    said = done.stderr.decode(errors="replace")
    assert done.returncode == code, (done.returncode, said[-300:])
    lines = [line for line in said.splitlines() if line.startswith("train_mnist.py:")]
    assert "Traceback" not in said and len(lines) == 1, said[-300:]
    return lines[0]


def fine(done: subprocess.CompletedProcess, runs: Path) -> None:
    said = (done.stderr or b"").decode(errors="replace")
    assert done.returncode == 0, (done.returncode, said[-300:])
    assert len(list(runs.glob("*/summary.json"))) == 1 and "Traceback" not in said, said[-300:]


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
    done = subprocess.run(command, cwd=folder, env={**os.environ, **SHORT}, capture_output=True)
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
        fine(script(place, *FLAGS, root=copy, before=unprivileged(place)), place / "runs")
    finally:
        for path in [copy, *(p for p in copy.rglob("*") if p.is_dir())]:
            path.chmod(0o755)


def unprivileged(folder: Path):
    """What a process calls to become user 65534, if it is root."""
    if os.getuid():
        return None
    os.chown(folder, 65534, 65534)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    return lambda: (os.setgroups([]), os.setgid(65534), os.setuid(65534))


def other_user(folder):
    """A folder in which this user may not write: one line."""
    place = folder / "work"
    place.mkdir()
    before = unprivileged(place)
    if os.getuid() == 0:
        os.chown(place, 0, 0)
    place.chmod(0o555)
    try:
        assert "denied" in one_line(script(place, *FLAGS, before=before), 1)
    finally:
        place.chmod(0o755)


def small_files(folder):
    """A limit on the size of files, as disk quotas are."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    assert "too large" in one_line(script(folder, *FLAGS, before=limit), 1)
    resumed = script(folder, "--resume", "latest")
    fine(resumed, folder / "runs")


def _memory(size: int):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def little_memory(folder):
    """Enough to import torch, too little to train."""
    flags = [*FLAGS, "--model_base_dim", "256", "--batch_size", "1000000", "--limit_batches", "1"]
    line = one_line(script(folder, *flags, before=_memory(3_000_000_000)), 1)
    assert "out of memory" in line or "annot allocate" in line, line


def too_little_to_start(folder):
    """Too little for the import of torch: one line, whatever the loader says."""
    done = script(folder, *FLAGS, before=_memory(400_000_000))
    said = done.stderr.decode()
    assert done.returncode in (1, 137, -9, -6, -11) and "Traceback" not in said, said[-300:]


def few_files(folder):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))  # noqa: E731
    done = script(folder, *FLAGS, before=limit)
    said = done.stderr.decode()
    assert done.returncode in (0, 1) and "Traceback" not in said, said[-300:]


def pipe_that_closes(folder):
    command = f"{sys.executable} {ROOT}/train_mnist.py {RUN} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, timeout=120
    )
    assert done.returncode == 128 + signal.SIGPIPE and b"Traceback" not in done.stderr


def early_interrupt(folder):
    """Ctrl-C while torch is imported."""
    command = [sys.executable, str(ROOT / "train_mnist.py"), *FLAGS]
    for wait in (0.5, 1.0, 1.5, 2.0):
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 130) and b"Traceback" not in said, said[-300:]


def folder_deleted_under_a_run(folder):
    started = Script(folder)
    process = started.start(*TINY, "--epochs", "2000")
    while "step" not in started.said():
        time.sleep(0.02)
    shutil.rmtree(started.only)
    process.join(60)
    said = started.said()
    assert process.exitcode == 1 and "Traceback" not in said and "train_mnist.py:" in said


class ClockBack:
    """The clock goes back by a day in the middle of a run."""

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


CASES = [no_home, no_git, closed_output, no_terminal, ascii_locale, path_in_no_encoding, spaces,
    optimised, read_only_checkout, other_user, small_files, little_memory, too_little_to_start,
    few_files, pipe_that_closes, early_interrupt, folder_deleted_under_a_run, clock_that_goes_back,
    after_99999]  # fmt: skip
random.Random(0).shuffle(CASES)  # so that a quick run sees some of each kind


def surroundings(i: int, folder: Path) -> None:
    """One of CASES."""
    if CASES[i] in (read_only_checkout, other_user) and sys.platform != "linux":
        raise DoesNotApply("needs Linux")
    try:
        CASES[i](folder)
    except AssertionError as error:
        raise AssertionError(f"{CASES[i].__name__}: {error}") from None


ROWS = [
    Row("no HOME, git, terminal or output; locales, limits, other users and folders",
        "it works, or one line", surroundings, len(CASES), 4),
]  # fmt: skip
