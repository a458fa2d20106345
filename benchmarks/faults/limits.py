"""Limits on a process, and what other processes do to it: it works, or one line."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Script
from test_runs import TINY

from benchmarks.faults.launch import FLAGS, RUN, case_of, fine, one_line, script
from benchmarks.faults.row import Row
from benchmarks.record import ROOT


def small_files(folder):
    """A limit on the size of files, as disk quotas are."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    assert "too large" in one_line(script(folder, *FLAGS, before=limit), 1)
    resumed = script(folder, "--resume", "latest")
    fine(resumed, folder / "runs")


class LittleMemory:
    """A run's process may have as much memory as it has now, and some megabytes."""

    def __init__(self, megabytes: int):
        self.megabytes = megabytes

    def __call__(self):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + self.megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def little_memory(folder):
    """Enough to begin a run, too little to train."""
    started = Script(folder)
    flags = [*TINY, "--model_base_dim", "512", "--batch_size", "1500"]
    assert started.run(*flags, sabotage=LittleMemory(100)) == 1, started.said()
    assert "out of memory" in started.last_line() and "Traceback" not in started.said()


def too_little_to_start(folder):
    """Too little for the import of torch: one line, whatever the loader says."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))  # noqa: E731
    done = script(folder, *FLAGS, before=limit)
    stderr = done.stderr.decode()
    assert done.returncode in (1, 137, -9, -6, -11) and "Traceback" not in stderr, stderr[-300:]


def few_files(folder):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))  # noqa: E731
    done = script(folder, *FLAGS, before=limit)
    stderr = done.stderr.decode()
    assert done.returncode in (0, 1) and "Traceback" not in stderr, stderr[-300:]


def pipe_that_closes(folder):
    command = f"{sys.executable} {ROOT}/train_mnist.py {RUN} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, timeout=120
    )
    assert done.returncode == 128 + signal.SIGPIPE and b"Traceback" not in done.stderr


def imports_torch(process: subprocess.Popen) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def early_interrupt(folder):
    """Ctrl-C while torch is imported, and a moment later."""
    command = [sys.executable, str(ROOT / "train_mnist.py"), *FLAGS]
    for wait in (0.0, 0.3, 0.6, 1.0):
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not imports_torch(process):
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 130) and b"Traceback" not in errors, errors[-300:]


def folder_deleted_under_a_run(folder):
    started = Script(folder)
    process = started.start(*TINY, "--epochs", "2000")
    while "step" not in started.said():
        time.sleep(0.02)
    run = started.only
    while run.exists():  # it may be writing a file this moment
        shutil.rmtree(run, ignore_errors=True)
    process.join(60)
    output = started.said()
    assert process.exitcode == 1 and "Traceback" not in output and "train_mnist.py:" in output


CASES = [little_memory, pipe_that_closes, small_files, early_interrupt, few_files,
    folder_deleted_under_a_run, too_little_to_start]  # fmt: skip
ROWS = [
    Row("limits on memory, files and their size; Ctrl-C amid an import; output that closes",
        "it works, or one line", case_of(CASES, "limits"), len(CASES), 1),
]  # fmt: skip
