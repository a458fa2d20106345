"""Compare learning-rate schedules on 2-D data: five of them on circle, dino, line and moons.

python -m studies.lr_schedules                       the study: 4 x 5 runs of 10,000 steps per seed
python -m studies.lr_schedules --sweep --sets dino   many decay rates and step sizes
python -m studies.lr_schedules --digits              the five schedules on 8x8 digits, with FID
python -m studies.lr_schedules --resume latest       resume an interrupted run
python -m studies.lr_schedules --report RUN ...      write the runs' numbers to docs/lr_schedules.md

The runs of a seed are trained together (together.py). They share first weights, batches, times and
noise, so they differ in their learning rate alone.
"""

import sys
from pathlib import Path

from common import cli
from studies.lr_schedules.options import KIND, LR_SCHEDULES, check, make_parser

if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), KIND, check)

import train_mnist
from common import loop
from common.errors import guarded
from common.machine import setup
from common.run import Run
from studies.lr_schedules import report
from studies.lr_schedules.points import load
from studies.lr_schedules.recipes import the_five, the_sweep
from studies.lr_schedules.study import Settings, run_study

# minutes of training on the embedded digits, enough for an FID that tells schedules apart
DIGITS = """
    --dataset digits --model_base_dim 16 --batch_size 64 --timesteps 100 --epochs 9 --lr 0.01
    --backward_steps 20 --fid_samples 0 --eval_samples 1000 --log_freq 100
""".split()
PASSED_ON = ("seed", "threads", "device", "runs_dir", "save_seconds")
LR_SCHEDULE_OPTIONS = (
    "step_size",
    "step_decay",
    "exponential_end",
    "plateau_decay",
    "plateau_patience",
)


def settings_of(args) -> Settings:
    options = {name: getattr(args, name) for name in LR_SCHEDULE_OPTIONS}
    return Settings(
        recipes=the_sweep(args.steps) if args.sweep else the_five(options),
        seeds=range(args.seed, args.seed + args.seeds),
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        epoch_steps=max(1, args.points // args.batch_size),
        log_every=args.log_freq,
        keep_points=not args.sweep,
    )


def train_on_digits(args) -> None:
    """The five schedules through train_mnist.py's own training: a run's folder each."""
    values = {name: getattr(args, name) for name in PASSED_ON}
    values["device"] = "cpu" if args.cpu else args.device
    command = [*DIGITS, *(f"--{name}={value}" for name, value in values.items())]
    for lr_schedule in LR_SCHEDULES:
        flags_of_run = [*command, "--lr_schedule", lr_schedule]
        arguments = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, flags_of_run)
        loop.run_script("train", arguments, train_mnist.train, train_mnist.print_plan)


def train_on_points(args) -> None:
    """The study itself, in a run's folder of its own."""
    device, settings = setup(args.device, args.cpu, args.threads), settings_of(args)
    data = load(args.sets, args.points, args.eval_points, device)
    with Run.open(KIND, vars(args), device, sets=sorted(data)) as run:
        if run.finished:
            run.log(f"{run.folder} is complete: nothing to resume")
            return
        run.log(f"{run.folder}: {len(data)} sets, {len(settings.recipes)} runs each, on {device}")
        run_study(settings, run, data)
        if not args.sweep:
            print(report.tables_of_run(run.folder))
            print(f"--report {run.folder} puts them, and the figures, into docs/lr_schedules.md")


def main(args) -> None:
    if args.report is not None:
        report.publish([Path(folder) for folder in args.report])
    elif args.digits:
        train_on_digits(args)
    else:
        train_on_points(args)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "lr_schedules"))
