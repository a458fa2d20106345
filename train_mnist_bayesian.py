"""Search for a noise schedule (Bayesian, random or grid); each trial is a run of train_mnist.py.

python train_mnist_bayesian.py                          the published search: 15 trials, Bayesian
python train_mnist_bayesian.py --strategy random        the same space and budget, random points
python train_mnist_bayesian.py --fix start end epsilon  search over tau alone
python train_mnist_bayesian.py --resume latest          resume an interrupted search
"""

import argparse
from itertools import product

from common import cli, flags
from common.families import FAMILIES, NAMES, among, complete, table_of


def make_parser() -> cli.Parser:
    parser = cli.Parser("Search for the noise schedule that gives the lowest FID.")
    flags.add_data(parser)
    flags.add_network(parser)
    flags.add_schedule(parser)
    flags.add_training(parser)
    add_search(cli.adder(parser, "search"))
    flags.add_evaluation(parser)
    flags.add_runtime(parser)
    flags.add_output(parser)
    return parser


def add_search(add) -> None:
    text = "bayesian: points proposed by a Gaussian process; random and grid: as named"
    add("strategy", "bayesian", text, choices=["bayesian", "random", "grid"])
    add("n_calls", 15, "maximum number of trials", type=cli.count)
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
    add("jobs", 1, text, type=cli.count)
    text = "stop after this many trials in a row without improvement; 0: never"
    add("patience", 0, text, type=cli.count_or_none)
    text = "start no further trial after this many seconds; 0: no limit"
    add("deadline", 0.0, text, type=cli.number(float, 0))
    text = (
        "stop a trial at half its epochs if its FID (of --fid_samples images) exceeds the median "
        "of the earlier trials at that point"
    )
    add("prune", False, text, action="store_true")


def check(args) -> None:
    flags.check_common(args)
    flags.check_schedule(args)
    own = table_of(args.scheduler_type, among(vars(args)))
    if not own:
        raise ValueError(f"--scheduler_type {args.scheduler_type} has no parameter to search")
    args.fix = args.fix or []
    for name in args.fix:
        if name not in own:
            raise ValueError(
                f"--fix {name}: the {args.scheduler_type} schedule has no such parameter"
            )
    for name in NAMES:
        given = getattr(args, f"{name}_range")
        if given and (name not in own or name in args.fix):
            raise ValueError(f"--{name}_range: {name} is not searched")
        free = name in own and name not in args.fix
        setattr(args, f"{name}_range", list(given or own[name].search) if free else None)
    check_ranges(args, ranges_of(args))
    if not args.eval_samples:
        raise ValueError("--eval_samples 0: a search needs the final FID as its objective")
    if args.prune and (args.epochs < 2 or not args.fid_samples):
        raise ValueError("--prune requires --fid_samples and at least 2 --epochs")


def check_ranges(args, ranges: dict[str, tuple]) -> None:
    if not ranges:
        raise ValueError("--fix leaves no parameter to search")
    fixed = among(vars(args))
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ValueError(f"--{name}_range {low:g} {high:g}: the first must be below the second")
        value = getattr(args, name)
        if not (low <= value <= high or args.no_warm_start):
            raise ValueError(
                f"trial 0 has {name} {value:g}, outside --{name}_range {low:g} {high:g}: "
                "change one of them or give --no_warm_start"
            )
    given = {name: limits for name, limits in ranges.items() if name in NAMES}
    for corner in product(*given.values()):  # valid at the corners implies valid inside
        complete(args.scheduler_type, fixed | dict(zip(given, corner, strict=True)))


def ranges_of(args) -> dict[str, tuple]:
    """The search space: name -> (low, high)."""
    table = table_of(args.scheduler_type, among(vars(args)))
    given = {name: getattr(args, f"{name}_range", p.search) for name, p in table.items()}
    return {name: tuple(limits) for name, limits in given.items() if limits}


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), "search", check)

import json
import shlex
import sys
from collections import Counter
from pathlib import Path

import torch

import train_mnist
from common import checkpoint, figures
from common.errors import Stop, guarded
from common.judging import Judge, judge_checkpoint
from common.loop import run_script
from common.machine import peak_memory, progress_bar
from common.run import Run
from common.sampling import SamplerSettings
from scheduler import Schedule
from search.ledger import Ledger
from search.points import Points, fitted
from search.trials import Workers


def search(args, run: Run, images: torch.Tensor) -> dict:
    """Ask, try, tell, until the budget is spent; from wherever the ledger ends."""
    ledger = Ledger(run.folder / "search.jsonl", run.log)
    run.elapsed = max((row["at"] for row in ledger.rows.values()), default=0.0)
    first = [] if args.no_warm_start else [{name: getattr(args, name) for name in ranges_of(args)}]
    points, done, reason = Points(args, ranges_of(args), first), 0, ""
    with (
        Workers(args.jobs, run) as workers,
        progress_bar(total=args.n_calls, initial=len(ledger.rows), desc=args.strategy) as bar,
    ):
        while done < args.n_calls and not (reason := enough(args, run, ledger, done)):
            asked = points.ask(min(args.jobs, args.n_calls - done))
            if not asked:
                reason = "the grid is through"
                break
            limit = ledger.limit(done) if args.prune else None
            batch = {done + i: ledger.known(done + i, point) for i, point in enumerate(asked)}
            tasks = {
                i: (run.folder / "trials" / f"{i:03d}", trial_arguments(args, point, i), limit)
                for i, point in batch.items()
                if i not in ledger.rows
            }
            for i, result in workers(tasks):
                row = {"trial": i, "parameters": batch[i], "seed": args.seed, **result}
                ledger.add(row | {"at": round(run.seconds(), 3)})
                run.log(in_words(row))
                bar.update()
                bar.set_postfix(best=f"{best['objective']:.5g}" if (best := ledger.best()) else "-")
            done += len(batch)
            if done < args.n_calls:  # after the last trial nobody asks
                points.tell(list(batch.values()), [ledger.rows[i]["objective"] for i in batch])
    if reason:
        run.log(f"stopped after {done} of {args.n_calls} trials: {reason}")
    return conclude(args, run, images.device, ledger, points.seconds)


def enough(args, run: Run, ledger: Ledger, done: int) -> str:
    """Why no further trial should begin, or nothing."""
    best = ledger.best(before=done)
    if args.patience and best and done - 1 - best["trial"] >= args.patience:
        return f"{args.patience} trials in a row brought nothing better (--patience)"
    if args.deadline and run.seconds() >= args.deadline and done >= len(ledger.rows):
        return f"{args.deadline:g} seconds are over (--deadline)"
    return ""


def trial_arguments(args, point: dict, number: int) -> argparse.Namespace:
    """The arguments of train_mnist.py for a point, on this trial's share of the machine."""
    actions = train_mnist.make_parser()._actions
    flags = {a.dest: getattr(args, a.dest, a.default) for a in actions if a.dest != "help"}
    flags |= point | {"schedule_from": None, "resume": None}
    gpus = torch.cuda.device_count()
    if args.jobs > 1 and gpus > 1 and not args.cpu and args.device in ("auto", "cuda"):
        flags["device"] = f"cuda:{number % gpus}"
    if args.jobs > 1 and not args.threads:
        flags["threads"] = max(1, torch.get_num_threads() // args.jobs)
    return argparse.Namespace(**flags)


def conclude(args, run: Run, device, ledger: Ledger, seconds: float) -> dict:
    """Table, figures, the best schedule and how it does on noise that did not choose it."""
    rows, best = list(ledger.rows.values()), ledger.best()
    if not rows:
        raise Stop(f"{run.folder}: ended before the first trial; a longer --deadline is needed")
    if not best:
        raise Stop(f"{run.folder}: all {len(rows)} trials failed; the first: {rows[0]['reason']}")
    run.log("best first:\n" + "\n".join(in_words(row) for row in sorted(rows, key=by_objective)))
    folder = run.folder / "trials" / f"{best['trial']:03d}"
    judge, settings = (kind.from_flags for kind in (Judge, SamplerSettings))
    fresh = judge_checkpoint(
        checkpoint.newest(folder),
        judge(device, **vars(args)),
        device,
        args.eval_samples,
        settings(**vars(args)),
        "fresh noise",
        run,
    )

    default = Schedule(args.scheduler_type, args.timesteps)
    schedule = Schedule(args.scheduler_type, args.timesteps, **values_of(args, best["parameters"]))
    run.write_json("schedule.json", schedule.to_dict())
    figures.plot_schedules(
        run.folder / "figures" / "schedule.png", {"default": default, "best": schedule}
    )
    figures.plot_search(run.folder / "figures", fitted(args, ranges_of(args), rows))
    run.log(f"to train with it: {retraining(args, run.folder / 'schedule.json')}")
    for row in rows:
        run.evaluations.update(row["network_evaluations"])
    counts = Counter(row["status"] for row in rows)
    summary = {"strategy": args.strategy, "trials": len(rows), **counts, "best": best["trial"]}
    summary |= {"objective": best["objective"], **schedule.values(), **fresh}
    summary["optimizer_seconds"] = round(seconds, 3)
    steps = args.timesteps if args.sampler == "ddpm" else args.backward_steps
    for name in peak_memory():
        summary[f"trials_peak_{name}"] = max(row["peak_memory"].get(name, 0) for row in rows)
    return run.finish(summary, drawn=args.eval_samples * steps)


def by_objective(row: dict) -> tuple:
    value = row["objective"]
    return (value is None, value, row["trial"])


def in_words(row: dict) -> str:
    """A line of the table of trials."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in row["parameters"].items())
    said = row["reason"] or f"FID {row['objective']:.5g} (n {row['n']})"
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
    return f"trial {row['trial']:3d} {row['status']:7s} {values:55s} {seconds:>7s}  {said}"


def values_of(args, point: dict) -> dict[str, float]:
    """All parameters of a point's schedule, the fixed ones too."""
    table = table_of(args.scheduler_type, among(vars(args)))
    return {name: point.get(name, getattr(args, name)) for name in table}


def retraining(args, schedule) -> str:
    """The command that trains with a schedule as the trials did."""
    mine = trial_arguments(args, {}, 0)
    mine.schedule_from, mine.device = str(schedule), args.device
    mine.threads = args.threads
    if isinstance(args.sampling_schedule, dict):  # a file's content; the file may be gone
        mine.sampling_schedule = str(schedule.with_name("sampling_schedule.json"))
        checkpoint.write_atomically(
            Path(mine.sampling_schedule), json.dumps(args.sampling_schedule).encode()
        )
    skip = {*NAMES, "scheduler_type", "timesteps"}
    return shlex.join(
        ["python", "train_mnist.py", *cli.to_argv(train_mnist.make_parser(), mine, skip)]
    )


def print_plan(args, images) -> None:
    """What would be tried, and what a trial costs."""
    print(f"{args.strategy}, {args.n_calls} trials, {args.jobs} at once, over")
    for name, (low, high) in ranges_of(args).items():
        print(f"  {name} in [{low:g}, {high:g}]")
    print("a trial:")
    train_mnist.print_plan(trial_arguments(args, {}, 0), images)


def main(args) -> None:
    run_script("search", args, search, print_plan)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_mnist_bayesian.py"))
