"""train_mnist.py from the command line, as a shell in odd surroundings starts it."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.record import ROOT

RUN = "--dataset digits --cpu --threads 1 --model_base_dim 4 --epochs 1 --limit_batches 2"
RUN += " --timesteps 20 --backward_steps 2 --n_samples 2 --fid_samples 0 --eval_samples 0"
FLAGS = RUN.split()
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def script(folder: Path, *flags, python=(), before=None, **options) -> subprocess.CompletedProcess:
    """train_mnist.py from the command line, in a folder; `before` runs in its process first."""
    root = options.pop("root", ROOT)
    command = [sys.executable, *python, str(root / "train_mnist.py"), *map(str, flags)]
    environment = {**os.environ, **ENVIRONMENT, **options.pop("env", {})}
    for name in options.pop("without", ()):
        environment.pop(name, None)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        command, cwd=folder, env=environment, preexec_fn=before, timeout=120, **options
    )


def one_line(done: subprocess.CompletedProcess, code: int) -> str:
    stderr = done.stderr.decode(errors="replace")
    assert done.returncode == code, (done.returncode, stderr[-300:])
    lines = [line for line in stderr.splitlines() if line.startswith("train_mnist.py:")]
    assert "Traceback" not in stderr and len(lines) == 1, stderr[-300:]
    return lines[0]


def fine(done: subprocess.CompletedProcess, runs: Path) -> None:
    stderr = (done.stderr or b"").decode(errors="replace")
    assert done.returncode == 0, (done.returncode, stderr[-300:])
    assert len(list(runs.glob("*/summary.json"))) == 1 and "Traceback" not in stderr, stderr[-300:]


def case_of(cases: list, name: str):
    """A row's case: the i-th of these functions, which says its name when it fails."""

    def case(i: int, folder: Path) -> None:
        try:
            cases[i](folder)
        except AssertionError as error:
            raise AssertionError(f"{cases[i].__name__}: {error}") from None

    case.__module__, case.__name__ = f"benchmarks.faults.{name}", name
    return case
