"""Noise schedules against image size: the findings of Chen (2023) on a small scale.

python -m studies.noise_schedules                       run what is missing, write the page
python -m studies.noise_schedules --dry_run             list the runs and what they cost
python -m studies.noise_schedules --sizes 8 --seeds 1   a part of them; the rest stays for later
python -m studies.noise_schedules --report              write page and figures from the CSV file

Every run is one of train_mnist.py in a folder of its own, and interrupted ones are resumed. Several
processes that share the folder divide the runs among themselves.
"""

from common import cli
from studies.noise_schedules.plan import ALL_SIZES, DATASETS, RECIPES, SEEDS, SIZES


def make_parser() -> cli.Parser:
    parser = cli.Parser("Compare noise schedules at several image sizes.")
    parser.prog = "python -m studies.noise_schedules"
    add = cli.adder(parser, "study")
    add("datasets", list(DATASETS), "data sets", nargs="+", choices=list(DATASETS))
    text = "image sizes; 64 is the image of 32 enlarged, which no claim of the page needs"
    add("sizes", list(SIZES), text, type=int, nargs="+", choices=list(ALL_SIZES))
    add("seeds", SEEDS, "number of seeds, counted from 0", type=cli.number(int, 1, 1000))
    text = f"training schedules (default: all); one or more of: {'; '.join(RECIPES)}"
    add("recipes", None, text, nargs="+", choices=list(RECIPES), metavar="RECIPE")
    add("dry_run", False, "list the runs and their cost, then exit", action="store_true")
    text = "start no run; write page and figures from the CSV file"
    add("report", False, text, action="store_true")
    add("jobs", 1, "runs in parallel", type=cli.number(int, 1, 1024))
    add("threads", 1, "CPU threads of a run", type=cli.threads)
    add("device", "cpu", "device of every run: auto, cpu, mps, cuda or cuda:N", type=cli.device)
    text = "folder that contains MNIST/raw and FashionMNIST/raw; what is missing is downloaded"
    add("data_dir", "data", text)
    add("runs_dir", "runs/noise_schedules", "folder of the runs")
    text = "folder for the CSV file; the page and the figures are written next to it"
    add("results_dir", "docs/results", text)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import sys
from pathlib import Path

from common import estimate
from common.data import Source
from common.errors import guarded
from common.machine import gpus_to_share, setup
from common.run import forward_passes
from common.tables import counted
from comparison.cells import Places
from comparison.running import refuse_unfinished, run_all
from studies.noise_schedules import report
from studies.noise_schedules.results import Results
from studies.noise_schedules.tasks import Task, tasks_of


def main(args) -> None:
    results = Results(Path(args.results_dir) / "noise_schedules.csv")
    places = Places(args.device, args.data_dir, args.runs_dir, args.threads)
    recipes = args.recipes or RECIPES
    tasks = tasks_of(places, args.datasets, args.sizes, recipes, range(args.seeds))
    if args.dry_run:
        print_plan([task for task in tasks if not results.holds(task)], args)
        return
    if not args.report:
        run_missing(tasks, results, args)
    report.draw_samples(results.path, tasks)
    report.write(results.path)


def run_missing(tasks: list[Task], results: Results, args) -> None:
    """Run and judge what has no rows yet; a Stop where some of it is left."""
    missing = [task for task in tasks if not results.holds(task)]
    take_done(missing, results)  # judging may have been stopped in between
    failed, taken = run_all(
        [task for task in missing if not task.done],
        args.jobs,
        lambda task: forward_passes(task.cost()),
        gpus_to_share(args.device),
        results.take,
    )
    take_done(missing, results)  # what another process ran and did not come to judge
    refuse_unfinished(failed, taken)


def take_done(missing: list[Task], results: Results) -> None:
    """Add the rows of finished runs that have none."""
    for task in missing:
        if task.done and not results.holds(task):
            results.take(task)


def print_plan(missing: list[Task], args) -> None:
    """The runs with their minutes by a few steps timed now, and the hours of a core in all."""
    device, rates = setup(args.device, threads=args.threads), {}
    minutes: dict[tuple[str, int], list[float]] = {}
    for task in missing:
        if task.size not in rates:
            flags = task.parsed()
            images = Source.from_flags(**vars(flags)).planned_images()
            size = flags.model_base_dim, flags.timesteps, flags.batch_size
            rates[task.size] = estimate.measure(images, *size, device, flags.amp)
        spent = rates[task.size].seconds(task.cost()) / 60
        minutes.setdefault((task.dataset, task.size), []).append(spent)
        print(f"{spent:6.1f} min  {task.command}")
    for (dataset, size), of_size in minutes.items():
        judges = ", ".join(report.judges_of(dataset, size))
        hours = f"{sum(of_size) / 60:5.1f} hours"
        print(
            f"{dataset:8s} {size:2d}x{size:<2d} {len(of_size):4d} runs, {hours}, judged by {judges}"
        )
    hours = sum(map(sum, minutes.values())) / 60
    print(f"{counted(len(missing), 'run')}, {hours:.1f} hours one after the other")


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "studies.noise_schedules"))
