"""Started by torchrun in test_processes.py: what is drawn by two processes, or by one."""

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from harness import TwoLayers

from common import processes
from common.judging import Judge
from common.machine import setup
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.upper_level import UpperLevel
from model import Diffusion
from scheduler import Schedule

N = 70  # in chunks of 16: five of them, for two processes an odd number


def computed() -> dict:
    """Images and scores of an evaluation, and every kind of gradient of the upper level."""
    device = setup("cpu", threads=1)
    torch.manual_seed(5)
    net = TwoLayers(base=8).eval()
    schedule = Schedule("cosine", 20, learned=True, end=0.9)
    sampler = Sampler(Diffusion(schedule), SamplerSettings(4, chunk=16), (1, 28, 28))

    @torch.no_grad()
    def drift() -> None:
        """As equal runs on GPUs do; what is computed is what the first process has."""
        for parameter in (*net.parameters(), *schedule.parameters()):
            parameter -= 0.01 * processes.rank()

    judge = Judge.from_flags(
        device, extractor="mnist", cache_dir=sys.argv[1], inception_weights=None,
        dataset="digits", data_dir="data", image_size=28,
    )  # fmt: skip
    drift()
    found = {"images": torch.cat(list(sampler.many(net, N, "test")))}
    drift()
    found["scores"] = judge.score(sampler.many(net, N, "test"), splits=2)
    for kind, directions in (("zo", 3), ("exact", 1)):
        settings = UpperSettings(4, 24, directions=directions, upper_gradient=kind, at_once=10)
        upper = UpperLevel(sampler, judge, schedule, settings)
        drift()
        found[f"{kind} theta"] = upper.slope_of_weights(net, 1).gradient
        drift()
        found[f"{kind} q"] = upper.slope_of_schedule(net, 1).gradient
    drift()
    found |= {"both": torch.cat([slope.gradient for slope in upper.slopes(net, 1, "z")])}
    return found


def threads_of_gloo() -> list[str]:
    """Their names, on Linux."""
    names = []
    for task in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            names.append(task.read_text())
    return [name for name in names if "gloo" in name]


def no_thread_is_left() -> None:
    """When Python ends, a thread of gloo could abort the process."""
    if threads_of_gloo():
        print("gloo's threads outlive the group", file=sys.stderr, flush=True)
        os._exit(3)


if __name__ == "__main__":
    atexit.register(no_thread_is_left)  # what is registered first is called last
    found = computed()
    if processes.rank() == 0:
        torch.save({**found, "size": processes.size()}, sys.argv[2])
    assert threads_of_gloo() or sys.platform != "linux"
    processes.meet()
