"""Timing: a call in seconds, several sides in turn, their summary."""

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """How long a call takes, its work on a GPU included."""
    wait(device)
    begin = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begin


def cpu_seconds(call: Callable[[], object]) -> float:
    """The CPU time of a call: on one thread, what it takes on a machine that does nothing else."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def wait(device: torch.device | str) -> None:
    """A GPU computes while the program goes on: wait for it before reading a clock."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def summary(times: list[float]) -> dict[str, float]:
    return {"median": median(times), "least": min(times), "most": max(times)}
