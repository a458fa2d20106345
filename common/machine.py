"""The machine a script runs on: device, threads, memory, random streams, progress bars."""

import contextlib
import ctypes
import hashlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from common import processes
from common.errors import Stop

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def stream(device, seed: int, *names) -> torch.Generator:
    """The random stream of one purpose, such as stream(device, seed, "noise", step)."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def setup(
    name: str = "auto", cpu: bool = False, threads: int = 0, tf32: bool = False
) -> torch.device:
    """The device of --device and --cpu, with --threads and --tf32; one that is absent is a Stop."""
    processes.join()
    if threads:
        torch.set_num_threads(threads)
    name = "cpu" if cpu else name
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    device = torch.device(name)
    if device.type in there and (device.index or 0) >= there[device.type]:
        raise Stop(f"--device {name}: not available; use --device auto or --cpu", code=2)
    if device.type == "cuda":
        index = device.index  # set_device refuses a bare "cuda"; torchrun's processes share cards
        index = processes.rank() % there["cuda"] if index is None else index
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        # cuDNN takes TF32 by default: what is called float32 would have 10 bits of mantissa
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.cuda.reset_peak_memory_stats(device)  # a search's worker makes many runs
    keep_freed_memory()
    return device


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """All bits of float32, whatever --tf32 says."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def gpus_to_share(device: str) -> list[str]:
    """The machine's cards as CUDA_VISIBLE_DEVICES names them; none if --device names one."""
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return list(names)[: torch.cuda.device_count()]


def keep_freed_memory(keep: bool = True) -> None:
    """Whether glibc keeps what is freed for the next step, whose pages then cost no faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        # 32 MiB is what glibc grows to by itself, and the most that older ones take
        if not mallopt(M_MMAP_THRESHOLD, 2**31 - 1 if keep else 2**25):
            mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2**26)


def progress_bar(**options) -> tqdm:
    """A tqdm bar on a terminal, nothing elsewhere: logs stay clean."""
    return tqdm(
        disable=not sys.stderr.isatty() or processes.rank() > 0,
        dynamic_ncols=True,
        leave=False,
        **options,
    )


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes at the peak: of this process, and of the GPU if the run is on one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    with contextlib.suppress(OSError):
        # what getrusage says begins with what the parent had when it forked; Linux knows better
        status = Path("/proc/self/status").read_text()
        if match := re.search(r"VmHWM:\s*(\d+)", status):
            peak["host"] = 1024 * int(match[1])
    if device.type == "cuda":
        peak["cuda"] = torch.cuda.max_memory_allocated(device)
    return peak
