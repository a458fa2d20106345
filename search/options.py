"""The flags of a search; no torch, so that errors and -h are instant."""

import argparse
import contextlib

from common import cli
from common.families import FAMILIES, NAMES

ENGINES = ("submitit", "ray")  # of --executor, beside this machine's processes


def add_search(add) -> None:
    text = (
        "bayesian: points proposed by a Gaussian process; random and grid: as named; optuna: the "
        "Gaussian process of Optuna, if it is installed"
    )
    add("strategy", "bayesian", text, choices=["bayesian", "random", "grid", "optuna"])
    add("n_calls", 15, "maximum number of trials", type=cli.number(int, 1, 100_000))
    text = "trials before the Gaussian process proposes points; includes trial 0"
    add("n_initial", 5, text, type=cli.count)
    text = "seed of the points; --seed is the seed of each trial's training"
    add("search_seed", 42, text, type=cli.number(int, 0, 2**32 - 1))
    for name in NAMES:
        ranges = {f: table[name].search for f, table in FAMILIES.items() if name in table}
        defaults = ", ".join(f"{f} {low:g} {high:g}" for f, (low, high) in ranges.items())
        text = f"range in which {name} is searched (default: {defaults})"
        add(f"{name}_range", None, text, type=cli.parameter, nargs=2, metavar=("LOW", "HIGH"))
    text = "parameters to hold fixed, at the values of --start, --end, --tau and --epsilon"
    add("fix", None, text, choices=NAMES, nargs="+")
    text = "skip trial 0, the schedule given by --start, --end, --tau and --epsilon"
    add("no_warm_start", False, text, action="store_true")
    text = "trials in parallel, spread over all GPUs unless --device names one, such as cuda:0"
    add("jobs", 1, text, type=cli.number(int, 1, 1024))
    text = (
        "what runs the trials: processes on this machine, SLURM jobs (package submitit) or a Ray "
        "cluster (package ray)"
    )
    add("executor", "local", text, choices=["local", *ENGINES])
    text = "options of --executor, such as cluster=local timeout_min=60 slurm_partition=gpu"
    add("executor_options", None, text, type=option, nargs="+", metavar="NAME=VALUE")
    text = (
        "ask for the next point as soon as a trial ends, not when all --jobs have ended; which "
        "points are tried then depends on the order in which the trials end"
    )
    add("asynchronous", False, text, action="store_true")
    text = "stop after this many trials in a row without improvement; 0: never"
    add("patience", 0, text, type=cli.count_or_none)
    text = "start no further trial after this many seconds; 0: no limit"
    add("deadline", 0.0, text, type=cli.number(float, 0))
    text = (
        "stop a trial at half its epochs if its FID (of --fid_samples images) exceeds the median "
        "of the earlier trials at that point"
    )
    add("prune", False, text, action="store_true")


def option(text: str) -> list:
    """An argparse type: NAME=VALUE, the value a number, True or False where it is one."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if value in ("True", "False"):
        return [name, value == "True"]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return [name, kind(value)]
    return [name, value]


def check_executor(args) -> None:
    """Refuse options without an engine, and an option that is given twice."""
    names = [name for name, _ in args.executor_options or ()]
    if names and args.executor == "local":
        raise ValueError("--executor_options requires --executor submitit or ray")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--executor_options: {name} is given twice")
