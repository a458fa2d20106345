"""Where a benchmark leaves its numbers: docs/results, with its command and its machine."""

import json
import os
import platform
import sys

import torch

from common.checkpoint import write_atomically
from common.locate import ROOT

RESULTS = ROOT / "docs" / "results"


def write_json(name: str, content: dict) -> None:
    """docs/results/NAME.json"""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(RESULTS / f"{name}.json", text.encode())


def read_json(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def command_line(module: str) -> str:
    """The command that is running, as a user would paste it."""
    return " ".join([f"python -m benchmarks.{module}", *sys.argv[1:]])


def machine(device: torch.device | str = "cpu", threads: int | None = None) -> str:
    """torch's version, the device and the CPU threads, in words."""
    threads = threads or torch.get_num_threads()
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU"
    return f"torch {torch.__version__}, {name}, {threads} thread{'s' * (threads > 1)}"


def load_average() -> float:
    """Of the last minute: other programs on the machine make every time longer."""
    return os.getloadavg()[0]
