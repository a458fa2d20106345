"""The rows of bench.py that are processes of their own: peaks of memory, set-up, a search."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peak import KINDS
from benchmarks.record import ROOT
from benchmarks.rows import Rows
from benchmarks.sides import Sizes
from benchmarks.timing import seconds, summary

SEARCH = """--dataset digits --model_base_dim 4 --timesteps 10 --backward_steps 2 --epochs 1
    --limit_batches 1 --n_samples 4 --fid_samples 0 --eval_samples 20 --cpu --threads 1""".split()
TRIALS, QUICK_TRIALS = 15, 6  # the published number, and the least that fits a Gaussian process


def run(*command: object) -> str:
    """The output of a Python program, run from the repository's root."""
    argv = [sys.executable, *map(str, command)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def memory_peaks(rows: Rows, sizes: Sizes, threads: int) -> None:
    """What each kind of work needs at its peak."""
    flags = ["--device", sizes.device, "--threads", threads, "--base", sizes.base]
    flags += ["--batch_size", sizes.batch_size, "--images", sizes.images]
    flags += ["--amp"] * sizes.amp
    for kind in KINDS:
        peak = int(run("-m", "benchmarks.peak", kind, *flags))
        rows.add({"what": f"peak memory, {kind}", "GiB": peak / 2**30})


def set_up(rows: Rows) -> None:
    """A first run up to its first step, from the start of its process."""
    times = [seconds(lambda: run("-m", "benchmarks.set_up")) for _ in range(rows.repeats)]
    rows.add({"what": "set-up of a first run, digits", "ours": summary(times)})


def search_overhead(rows: Rows, quick: bool = False) -> None:
    """What a search adds to the training of each trial.

    Its process, its ledger, the Gaussian process, and a share of its start and figures.
    """
    trials = QUICK_TRIALS if quick else TRIALS
    with tempfile.TemporaryDirectory() as folder:
        command = ["train_mnist_bayesian.py", *SEARCH, "--runs_dir", folder, "--n_calls", trials]
        whole = seconds(lambda: run(*command))
        (ledger,) = Path(folder).glob("*/search.jsonl")
        of_trials = [json.loads(line)["seconds"] for line in ledger.read_text().splitlines()]
    each = (whole - sum(of_trials)) / len(of_trials)
    rows.add({"what": "a search trial beside its training", "ours": summary([each])})
