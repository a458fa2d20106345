"""Runs the cells, several at once: what is missing, in order; an interrupt stops them all.

Each cell's folder is locked by the process that runs it, so several processes, on one machine or on
machines that share the folder, divide the cells among themselves. A lock ends with its process.
"""

import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from common.errors import Stop
from common.locate import ROOT
from common.machine import progress_bar
from common.run_files import refuse_links
from common.tables import counted
from comparison.jobs import Job

INTERRUPTED = (130, 143, -2, -15)  # exit codes
PATIENCE = 120.0  # seconds for a run of a killed comparison to save and leave
POLL, RETRY = 0.1, 2.0  # seconds between looks at the processes, and at others' locks


AJob = TypeVar("AJob", bound=Job)


def lock_of(folder: Path) -> IO | None:
    """The lock of a folder, held until it is closed; None if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ".lock").is_symlink():
        raise Stop(f"{folder}/.lock: a link, through which nothing is written", code=2)
    lock = open(folder / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        lock.close()
        return None


def is_taken(cell: Job) -> bool:
    """Whether another process runs the cell now."""
    if lock := lock_of(cell.root):
        lock.close()
    return lock is None


class Ended(NamedTuple):
    """What is not done when a process has nothing left to run."""

    failed: Sequence[Job]  # or without the schedule of a cell that failed
    taken: Sequence[Job]  # by other processes, or waiting for the schedule of such a cell


class Runs:
    """The processes of the cells that run now; all are stopped together."""

    def __init__(self, gpus: list[str] | None = None):
        """`gpus` are the cards that the runs share; none where a flag names a device."""
        self.processes: dict[subprocess.Popen, Job] = {}
        self.locks: dict[subprocess.Popen, IO] = {}
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

    def start(self, cell: Job) -> bool:
        """Run a cell, unless another process does or has done it.

        It is the script itself, in a process group of its own: Ctrl-C reaches it through `stop`.
        """
        lock = lock_of(cell.root)
        if not lock:
            return False
        if cell.done:
            lock.close()
            return False
        refuse_links(cell.root)
        _wait_until_free(cell)
        child = str(ROOT / "comparison" / "child.py")
        cell.prepare()
        command = [sys.executable, child, str(os.getpid()), *cell.argv()]
        gpu, environment = self.free_gpu(), dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with open(cell.root / "output.txt", "a") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, process_group=0, env=environment
            )
        self.processes[process], self.on[process], self.locks[process] = cell, gpu, lock
        return True

    def free_gpu(self) -> str | None:
        """The card with the fewest runs on it now."""
        busy = [self.on[process] for process in self.processes]
        return min(self.gpus, key=busy.count, default=None)

    def ended(self) -> list[tuple[Job, int]]:
        """The cells that have ended since the last call, with their exit codes."""
        codes = {process: process.poll() for process in self.processes}
        over = [process for process, code in codes.items() if code is not None]
        for process in over:
            self.locks.pop(process).close()
        return [(self.processes.pop(process), codes[process]) for process in over]

    def stop(self) -> None:
        """Ask every run to save and leave, and wait until it has."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        for lock in self.locks.values():
            lock.close()
        self.processes.clear()
        self.locks.clear()


def _wait_until_free(cell: Job) -> None:
    """A run of a comparison that was killed may still be saving."""
    path = cell.folder and cell.folder / ".lock"
    if not path or not path.exists():
        return
    until = time.monotonic() + PATIENCE
    with open(path, "a") as lock:  # NFS locks what is open for writing
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(POLL)


def run_all(
    cells: list[AJob],
    jobs: int,
    cost: Callable[[AJob], int],
    gpus: list[str] | None = None,
    on_done: Callable[[AJob], None] | None = None,
) -> Ended:
    """Run the cells that are not done, until those that are left are not for this process.

    `on_done` is called with each cell that this process has run to its end.
    """
    costs = {cell: cost(cell) for cell in cells}
    waiting, failed = [cell for cell in cells if not cell.done], []
    began, spent, tried = time.monotonic(), 0, -math.inf
    with (
        progress_bar(total=sum(costs.values()), unit="eval", unit_scale=True) as bar,
        Runs(gpus) as runs,
    ):
        bar.update(sum(costs[cell] for cell in cells if cell.done))
        while waiting or runs.processes:
            if len(runs.processes) < jobs and time.monotonic() - tried >= RETRY:
                waiting, tried = _start_some(waiting, runs, jobs), time.monotonic()
                if not runs.processes and (left := _left(waiting, failed)):
                    return left
            time.sleep(POLL)
            ended = runs.ended()
            if runs.signal or any(code in INTERRUPTED for _, code in ended):
                runs.stop()
                code = 128 + (runs.signal or signal.SIGINT)
                raise Stop("interrupted; the same command continues", code=code)
            for cell, code in ended:
                tried = -math.inf  # at once: there is room, and maybe another schedule
                spent += costs[cell]
                bar.update(costs[cell])
                left = sum(costs[c] for c in cells if not c.done)
                hours = (time.monotonic() - began) * left / spent / 3600
                result = "done" if code == 0 else f"FAILED, see {cell.root}/output.txt"
                failed += [cell] if code else []
                if on_done and not code:
                    on_done(cell)
                bar.write(f"{cell.method}, seed {cell.seed}: {result}; {hours:.2f} hours left")
    return Ended(failed, [])


def _start_some(waiting, runs, jobs):
    """Start what may start; returns what is still to be done."""
    for cell in waiting:
        if len(runs.processes) < jobs and cell.ready:
            runs.start(cell)
    running = set(runs.processes.values())
    return [cell for cell in waiting if cell not in running and not cell.done]


def _left(waiting, failed):
    """What this process cannot run; None as long as there is a cell that it can."""
    waiting = [cell for cell in waiting if not cell.done]
    taken = [c for c in waiting if is_taken(c) or any(map(is_taken, c.begins_with))]
    lacking = [c for c in waiting if c not in taken and not c.ready]
    if len(taken) + len(lacking) < len(waiting):
        return None
    if lacking:
        count = counted(len(lacking), "run")
        print(f"left out for lack of a schedule or a network: {count}", file=sys.stderr)
    return Ended(failed + lacking, taken)


def refuse_unfinished(failed: Sequence[Job], taken: Sequence[Job]) -> None:
    """A Stop where runs failed, or are made by other processes."""
    if failed:
        count = counted(len(failed), "run")
        raise Stop(f"{count} failed, the first is {failed[0].root}/output.txt")
    if taken:
        count = counted(len(taken), "run")
        raise Stop(f"{count} left to other processes; repeat the command when they have ended")
