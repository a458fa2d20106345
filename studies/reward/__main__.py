"""Reward fine-tuning: every method on several seeds, both curves, and the page docs/reward.md.

python -m studies.reward                  run what is missing, write the page; resumes itself
python -m studies.reward --scale first    a small version: few images, one seed, no page
python -m studies.reward --so_far         write it from the runs that are done
python -m studies.reward --report         write it again from docs/results
"""

import fcntl
import resource
import sys
import time
from pathlib import Path

from common import cli
from studies.reward.tasks import METHODS, SPENT, Task, tasks_of

FIRST = ("unguided", "grid", "bilevel", "bilevel, published estimator")


def make_parser() -> cli.Parser:
    parser = cli.Parser("Compare ways of choosing lambda for reward fine-tuning.")
    parser.prog = "python -m studies.reward"
    add = cli.adder(parser, "study")
    text = "page: all methods, for docs/reward.md; first: four methods, one seed and few images"
    add("scale", "page", text, choices=["page", "first"])
    add("seeds", None, "number of seeds (default: 5 for page, 1 for first)", type=cli.count)
    text = "write the page from the numbers in docs/results, without a run"
    add("report", False, text, action="store_true")
    text = "run nothing, write the page from the runs of --runs_dir that are done"
    add("so_far", False, text, action="store_true")
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("cache_dir", "cache", "folder in which samples and reference statistics are cached")
    add("runs_dir", "runs/reward", "folder of the runs")
    add("jobs", 2, "runs at once", type=cli.count)
    add("threads", 1, "CPU threads of a run", type=cli.threads)
    add("device", "cpu", "cpu, mps, cuda or cuda:N", type=cli.device)
    add("dry_run", False, "list the runs and their cost, then exit", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import finetune_reward
from common.errors import Stop, guarded
from common.tables import read_csv, write_csv
from comparison.running import refuse_unfinished, run_all
from studies.reward import page, report


def main(args) -> None:
    if args.report:
        report.write_page()
        return
    places = ["--data_dir", args.data_dir, "--cache_dir", args.cache_dir]
    places += ["--threads", str(args.threads), "--device", args.device]
    whole = args.scale == "page"
    names = list(METHODS if whole else FIRST)
    seeds = args.seeds or (5 if whole else 1)
    tasks = tasks_of(args.scale, Path(args.runs_dir), seeds, names, places)
    if args.dry_run:
        for task in tasks:
            print(f"{cost(task):>9,} forward passes  {task.command}")
        print(f"{sum(map(cost, tasks)):>9,} forward passes in all")
        return
    if args.so_far and not whole:
        raise Stop("--so_far writes the page, which --scale first does not fill", code=2)
    if args.so_far:
        report.gather([task for task in tasks if task.done])
        report.write_page()
        return
    failed, taken = timed(tasks, args.jobs)
    refuse_unfinished(failed, taken)
    if whole:
        report.gather(tasks)
        report.write_page()
    print(page.of_results([report.row_of(task) for task in tasks if task.method in METHODS]))


def timed(tasks: list[Task], jobs: int):
    """Run what is missing; add what this took, interrupted or not, to spent.csv."""
    began, missing = time.monotonic(), not all(task.done for task in tasks)
    path, ended = tasks[0].root.parent / SPENT, []
    try:
        return run_all(tasks, jobs, cost, on_done=ended.append)
    finally:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        row = {"runs": len(ended), "jobs": jobs}
        row["seconds"] = round(time.monotonic() - began, 1)
        row["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
        if missing:
            with open(path.with_suffix(".lock"), "w") as lock:  # of two processes, both rows stay
                fcntl.flock(lock, fcntl.LOCK_EX)
                write_csv(path, [*(read_csv(path) if path.exists() else []), row])


def cost(task: Task) -> int:
    """Forward passes of a task."""
    return sum(finetune_reward.planned(task.parsed()).values())


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "studies.reward"))
