"""Runs the cells, several at once: what is missing, in order; an interrupt stops them all."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.errors import Stop
from common.machine import progress_bar
from comparison.cells import ROOT, Cell

INTERRUPTED = (130, 143, -2, -15)  # exit codes
PATIENCE = 120.0  # seconds for a run of a killed comparison to save and leave
POLL = 0.1


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the lock of a comparison's folder; a Stop if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(f"{folder}: another reproduce.py is running in it", code=2) from None
        yield


class Runs:
    """The processes of the cells that run now; all are stopped together."""

    def __init__(self, gpus: list[str] | None = None):
        """`gpus` are the cards that the runs share; none where a flag names a device."""
        self.processes: dict[subprocess.Popen, Cell] = {}
        self.gpus, self.on = gpus or [], {}
        self.signal = None

    def __enter__(self):
        numbers = signal.SIGINT, signal.SIGTERM
        self._before = {n: signal.signal(n, self._on_signal) for n in numbers}
        return self

    def __exit__(self, *_):
        self.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if self.signal:  # the second time nothing is saved
            for process in self.processes:
                process.kill()
        self.signal = number

    def start(self, cell: Cell) -> None:
        """The script itself, in a process group of its own: Ctrl-C reaches it through `stop`."""
        _wait_until_free(cell)
        cell.root.mkdir(parents=True, exist_ok=True)
        child = str(ROOT / "comparison" / "child.py")
        command = [sys.executable, child, str(os.getpid()), *cell.argv()]
        gpu, environment = self.free_gpu(), dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with open(cell.root / "output.txt", "a") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, process_group=0, env=environment
            )
        self.processes[process], self.on[process] = cell, gpu

    def free_gpu(self) -> str | None:
        """The card with the fewest runs on it now."""
        busy = [self.on[process] for process in self.processes]
        return min(self.gpus, key=busy.count, default=None)

    def ended(self) -> list[tuple[Cell, int]]:
        """The cells that have ended since the last call, with their exit codes."""
        codes = {process: process.poll() for process in self.processes}
        over = [process for process, code in codes.items() if code is not None]
        return [(self.processes.pop(process), codes[process]) for process in over]

    def stop(self) -> None:
        """Ask every run to save and leave, and wait until it has."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        self.processes.clear()


def _wait_until_free(cell: Cell) -> None:
    """A run of a comparison that was killed may still be saving."""
    path = cell.folder and cell.folder / ".lock"
    if not path or not path.exists():
        return
    until = time.monotonic() + PATIENCE
    with open(path) as lock:
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(POLL)


def gpus_to_share(device: str) -> list[str]:
    """The cards of this machine by the names that CUDA_VISIBLE_DEVICES takes, if runs choose."""
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return list(names)[: torch.cuda.device_count()]


def run_all(
    cells: list[Cell], jobs: int, cost: Callable[[Cell], int], gpus: list[str] | None = None
) -> list[Cell]:
    """Run the cells that are not done; returns those that failed or lack their schedule."""
    costs = {cell: cost(cell) for cell in cells}
    waiting, failed = [cell for cell in cells if not cell.done], []
    began, spent = time.monotonic(), 0
    with (
        progress_bar(total=sum(costs.values()), unit="eval", unit_scale=True) as bar,
        Runs(gpus) as runs,
    ):
        bar.update(sum(costs[cell] for cell in cells if cell.done))
        while waiting or runs.processes:
            for cell in [c for c in waiting if c.source is None or c.source.done]:
                if len(runs.processes) < jobs:
                    waiting.remove(cell)
                    runs.start(cell)
            if not runs.processes:
                print(f"left out for lack of a schedule: {len(waiting)} runs", file=sys.stderr)
                return failed + waiting
            time.sleep(POLL)
            ended = runs.ended()
            if runs.signal or any(code in INTERRUPTED for _, code in ended):
                runs.stop()
                code = 128 + (runs.signal or signal.SIGINT)
                raise Stop("interrupted; the same command continues", code=code)
            for cell, code in ended:
                spent += costs[cell]
                bar.update(costs[cell])
                left = sum(costs[c] for c in cells if not c.done)
                hours = (time.monotonic() - began) * left / spent / 3600
                result = "done" if code == 0 else f"FAILED, see {cell.root}/output.txt"
                failed += [cell] if code else []
                bar.write(f"{cell.method}, seed {cell.seed}: {result}; {hours:.2f} hours left")
    return failed
