"""Search for a noise schedule (Bayesian, random or grid); each trial is a run of train_mnist.py.

python train_mnist_bayesian.py                          the published search: 15 trials, Bayesian
python train_mnist_bayesian.py --strategy random        the same space and budget, random points
python train_mnist_bayesian.py --fix start end epsilon  search over tau alone
python train_mnist_bayesian.py --resume latest          resume an interrupted search
"""

import argparse

from common import cli, flags
from common.families import NAMES, among
from common.flag_checks import check_common, check_sampling, check_schedule, check_steps
from search.options import add_search, check_executor
from search.space import check_space, settle_ranges, space_of


def make_parser() -> cli.Parser:
    parser = cli.Parser("Search for the noise schedule that gives the lowest FID.")
    flags.add_data(parser)
    flags.add_network(parser)
    flags.add_schedule(parser)
    flags.add_training(parser)
    flags.add_noise_levels(parser)
    add_search(cli.adder(parser, "search"))
    text = "images of the FID that the search minimises, and of the final scores. "
    flags.add_evaluation(parser, "train", text + flags.COST_OF_FID)
    flags.add_runtime(parser)
    flags.add_output(parser)
    return parser


def check(args) -> None:
    check_common(args)
    check_schedule(args)
    check_steps(args)
    check_sampling(args)
    args.fix = args.fix or []
    given = {name: getattr(args, f"{name}_range") for name in NAMES}
    ranges = settle_ranges(args.scheduler_type, among(vars(args)), given, args.fix)
    vars(args).update({f"{name}_range": limits for name, limits in ranges.items()})
    check_space(args.scheduler_type, among(vars(args)), ranges_of(args), not args.no_warm_start)
    if not args.eval_samples:
        raise ValueError("--eval_samples 0: a search needs the final FID as its objective")
    check_executor(args)
    if args.prune and (args.epochs < 2 or not args.fid_samples):
        raise ValueError("--prune requires --fid_samples and at least 2 --epochs")


def ranges_of(args) -> dict[str, tuple[float, float]]:
    """The search space: name -> (low, high)."""
    ranges = {name: getattr(args, f"{name}_range") for name in NAMES}
    return space_of(args.scheduler_type, among(vars(args)), ranges)


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), "search", check)

import sys
from pathlib import Path

import torch

import train_mnist
from common import checkpoint
from common.errors import guarded, read_json
from common.judge_files import settled, warn_of_one_judge
from common.judging import Judges
from common.loop import run_script
from common.machine import gpus_to_share, progress_bar
from common.processes import refuse
from common.run import Run
from common.sampling import SamplerSettings
from scheduler import Schedule
from search import results
from search.asynchronous import search_asynchronously
from search.clock import clock
from search.executors import ENGINES, Elsewhere
from search.ledger import Ledger, best_row, median_at_half, trial_folder
from search.points import Points, grid_plan, grid_trials
from search.trials import Workers


def search(args, run: Run, images: torch.Tensor) -> dict:
    """Ask, try, tell, until the budget is spent; from wherever the ledger ends."""
    ledger = Ledger(run.folder / "search.jsonl", run.log, ranges_of(args))
    with clock(run, ledger):
        seconds = make_trials(args, run, ledger)
        return conclude(args, run, images.device, ledger, seconds)


def make_trials(args, run: Run, ledger: Ledger) -> float:
    """All that the ledger lacks; returns the seconds spent on proposing their points."""
    space, first = ranges_of(args), first_points(args)
    points = Points(args.strategy, args.n_calls, args.n_initial, args.search_seed, space, first)
    log_hints(args, run)
    if args.strategy == "grid":
        run.log(grid_plan(space, args.n_calls, first))
    with (
        make_workers(args, run) as workers,
        progress_bar(total=args.n_calls, initial=len(ledger.rows), desc=args.strategy) as bar,
    ):

        def record(number: int, point: dict, result: dict) -> None:
            row = {"trial": number, "parameters": point, "seed": args.seed, **result}
            ledger.add(row | {"at": round(run.seconds(), 3)})
            run.log(results.trial_line(row))
            bar.update()
            bar.set_postfix(best=f"{top['objective']:.5g}" if (top := ledger.best()) else "-")

        def task_of(number: int, point: dict, rows: list[dict]) -> tuple:
            limit = median_at_half(rows) if args.prune else None
            folder = trial_folder(run.folder, number)
            run.log(f"trial {number} of 0 to {args.n_calls - 1}; its log is {folder}/log.txt")
            return folder, trial_arguments(args, point), limit

        def stop(rows: list[dict]) -> str:
            return why_stop(args, run, rows, len(ledger.rows))

        how = search_asynchronously if args.asynchronous else search_in_batches
        sizes = args.jobs, args.n_calls
        done, reason = how(points, ledger, workers, *sizes, task_of, record, stop)
    if reason:
        run.log(f"stopped after {done} of {args.n_calls} trials: {reason}")
    return points.seconds


def log_hints(args, run: Run) -> None:
    """What is minimised, and what a user should know before the first trial."""
    steps = SamplerSettings.from_flags(**vars(args)).steps
    against = "training" if args.reference == "train" else "test"
    run.log(
        f"objective: the FID by {settled(args.extractor, args.dataset, args.image_size)} of "
        f"{args.eval_samples} images in {steps} {args.sampler.upper()} steps against {against} "
        "images"
    )
    warn_of_one_judge(args.extractor, args.dataset, args.image_size, run.log)
    if args.strategy in ("bayesian", "optuna") and args.n_calls <= args.n_initial:
        run.log(
            f"warning: --n_initial {args.n_initial} leaves the Gaussian process no point to "
            f"propose in {args.n_calls} trials: the search is random"
        )


def search_in_batches(
    points: Points, ledger: Ledger, workers, jobs: int, n_calls: int, task_of, record, why_stop
) -> tuple[int, str]:
    """Ask for as many points as there are jobs, try them all, tell them all; then the next."""
    done = 0
    while done < n_calls:
        if reason := why_stop(ledger.before(done)):
            return done, reason
        asked = points.ask(min(jobs, n_calls - done))
        if not asked:
            return done, "the grid has no more points"
        batch = {done + i: ledger.known(done + i, point) for i, point in enumerate(asked)}
        for number, point in batch.items():
            points.replace(number, point)
        rows = ledger.before(done)
        missing = {i: point for i, point in batch.items() if i not in ledger.rows}
        for i, result in workers({i: task_of(i, point, rows) for i, point in missing.items()}):
            record(i, batch[i], result)
        done += len(batch)
        if done < n_calls:  # after the last trial nobody asks
            points.tell(list(batch.values()), [ledger.rows[i]["objective"] for i in batch])
    return done, ""


def make_workers(args, run: Run) -> Workers | Elsewhere:
    """What runs the trials: processes of ours, or an engine."""
    if args.executor == "local":
        return Workers(args.jobs, run, gpus_to_share("cpu" if args.cpu else args.device))
    options = dict(args.executor_options or ())
    return Elsewhere(ENGINES[args.executor](run.folder / "jobs", args.jobs, options), run)


def first_points(args) -> list[dict]:
    """Trial 0: the schedule of --start, --end, --tau and --epsilon."""
    return [] if args.no_warm_start else [{name: getattr(args, name) for name in ranges_of(args)}]


def why_stop(args, run: Run, rows: list[dict], recorded: int) -> str:
    """Why no further trial should begin, or nothing; `rows` are those told so far, in order.

    Where there are rows, they decide: a resumed search, which reads all those that were `recorded`
    again, stops where it did before. An interrupted first trial may always be finished.
    """
    top = best_row(rows)
    if args.patience and top and len(rows) - 1 - rows.index(top) >= args.patience:
        return f"{args.patience} trials in a row brought no improvement (--patience)"
    now = max((row["at"] for row in rows), default=0.0 if recorded else run.seconds() - run.elapsed)
    if args.deadline and now >= args.deadline:
        return f"{args.deadline:g} seconds have passed (--deadline)"
    return ""


def trial_arguments(args, point: dict) -> argparse.Namespace:
    """The arguments of train_mnist.py for a point, on this trial's share of the machine."""
    parser = train_mnist.make_parser()
    given = {name: value for name, value in vars(args).items() if name in vars(parser.defaults())}
    given |= among(vars(args)) | point | {"schedule_from": None, "resume": None}
    if args.jobs > 1 and args.executor == "local" and not args.threads:
        given["threads"] = max(1, torch.get_num_threads() // args.jobs)
    return parser.defaults(**given)


def conclude(args, run: Run, device, ledger: Ledger, optimizer_seconds: float) -> dict:
    """Table, figures, the best schedule, and how it and the default do on held-out noise."""
    best, rows = results.best_of(run, ledger), list(ledger.rows.values())
    run.log(results.trials_table(rows))
    compared = {"best": best}
    if not args.no_warm_start and ledger.rows[0]["status"] == "ok":
        compared["default"] = ledger.rows[0]
    settings = SamplerSettings.from_flags(**vars(args))
    judges = Judges.from_flags(device, **vars(args))  # against test images, unlike the trials
    scores = results.judge_on_held_out_noise(
        run, compared, judges, settings, args.eval_samples, device
    )

    values = among(vars(args)) | best["parameters"]
    schedule = Schedule(args.scheduler_type, args.timesteps, **values)
    first = Schedule(args.scheduler_type, args.timesteps, **among(vars(args)))
    tried = None if args.no_warm_start else first
    results.save_best(run, tried, schedule, ranges_of(args), args.search_seed, rows)
    run.log(f"to train with it: {retraining(args, run.folder / 'schedule.json')}")
    for row in rows:
        run.evaluations.update(row["network_evaluations"])
    judged = read_json(trial_folder(run.folder, best["trial"]) / "summary.json")
    summary = {
        "strategy": args.strategy,
        **results.totals(rows),
        "best": best["trial"],
        "objective": best["objective"],
        "upper_reference": judged["reference"],
        **schedule.values(),
        **scores["best"],
        "default": scores.get("default"),
        "optimizer_seconds": round(optimizer_seconds, 3),
    }
    drawn = len({row["trial"] for row in compared.values()}) * args.eval_samples
    return run.finish(summary, drawn=drawn * settings.steps)


def retraining(args, schedule: Path) -> str:
    """The command that trains with a schedule as the trials did."""
    one = trial_arguments(args, {})
    one.reference = "test"
    one.schedule_from, one.device, one.threads = str(schedule), args.device, args.threads
    if isinstance(args.sampling_schedule, dict):  # a file's content; the file may be gone
        one.sampling_schedule = str(schedule.with_name("sampling_schedule.json"))
        checkpoint.write_json(Path(one.sampling_schedule), args.sampling_schedule)
    skip = {*NAMES, "scheduler_type", "timesteps"}
    return cli.command("train_mnist.py", train_mnist.make_parser(), vars(one), skip)


def trials_of(args) -> int:
    """How many a search makes that nothing ends early."""
    if args.strategy != "grid":
        return args.n_calls
    return grid_trials(ranges_of(args), args.n_calls, first_points(args))


def print_plan(args, images) -> dict[str, int]:
    """What would be tried, what a trial costs and, returned, what all of them cost."""
    print(f"{args.strategy}, {args.n_calls} trials, {args.jobs} in parallel, over")
    for name, (low, high) in ranges_of(args).items():
        print(f"  {name} in [{low:g}, {high:g}]")
    if args.strategy == "grid":
        print(grid_plan(ranges_of(args), args.n_calls, first_points(args)))
    print("a trial:")
    one = train_mnist.print_plan(trial_arguments(args, {}), images)
    print("all trials, one after the other:")
    return {name: trials_of(args) * count for name, count in one.items()}


def main(args) -> None:
    refuse("a search", "--jobs")
    run_script("search", args, search, print_plan)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_mnist_bayesian.py"))
