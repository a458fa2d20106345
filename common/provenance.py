"""Where a run comes from: arguments, command, commit, versions, machine. It is written first."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import torch

# rows, figures and pages: a checkout in which only these changed runs the code of its commit
WRITTEN = [f":(top,exclude){part}" for part in ("docs/results", "docs/figures", "docs/*.md")]


def describe(kind: str, arguments: dict, device: torch.device, facts: dict) -> dict:
    """The content of args.json."""
    return {
        "kind": kind,
        "arguments": {k: v for k, v in arguments.items() if k != "resume"},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "directory": os.getcwd(),  # that of a relative --data_dir
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "commit": commit(),
        "host": platform.node(),
        "processor": processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **({"cuda": cuda_facts()} if device.type == "cuda" else {}),
        "threads": torch.get_num_threads(),
        **facts,
    }


def processor() -> str:
    """The processor and the instructions that torch uses: numbers are rounded as these do it."""
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cuda_facts() -> dict:
    """What a number that a GPU computed depends on, beside the card."""
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: None)
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver(),  # the newest CUDA that it supports: 12040 is 12.4
        "tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def commit() -> str:
    """The commit of this code, with '+' when files were changed since; '' outside a checkout.

    What runs themselves write under docs is no change of the code.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    questions = (
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "-uno", "--", ":/", *WRITTEN],
    )
    try:
        head, dirty = (
            subprocess.run(
                [*git, *question], capture_output=True, text=True, timeout=5, check=True
            ).stdout
            for question in questions
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.strip() + ("+" if dirty.strip() else "")
