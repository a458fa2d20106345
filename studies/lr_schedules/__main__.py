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

ROOT = Path(__file__).resolve().parent.parent.parent
from common import cli, errors, flags

KIND = "lr_schedules"
# a training of some minutes on the embedded digits; FID needs a network that draws a little
DIGITS = """
    --dataset digits --model_base_dim 16 --batch_size 64 --timesteps 100 --epochs 9 --lr 0.01
    --backward_steps 20 --fid_samples 0 --eval_samples 1000 --log_freq 100
""".split()
SETS = ["circle", "dino", "line", "moons"]
SCHEDULES = ["constant", "step", "exponential", "plateau", "cosine"]


def make_parser() -> cli.Parser:
    parser = cli.Parser("Compare learning-rate schedules of a diffusion model on 2-D data.")
    add_study(parser)
    add_schedules(parser)
    flags.add_machine(parser)
    flags.add_output(parser).set_defaults(log_freq=100)
    return parser


def add_study(parser) -> None:
    group = parser.add_argument_group("study")
    add = cli.adder(group)
    add("sets", SETS, "data sets to train on", nargs="+", choices=SETS)
    add("seeds", 1, "number of seeds, counted from --seed", type=cli.count)
    add("steps", 10000, "training steps per run", type=cli.count)
    add("batch_size", 256, "points per training step", type=cli.count)
    add("lr", 3e-4, "initial learning rate of AdamW", type=cli.positive)
    text = "number of training points, and of real points for the KL divergence"
    add("points", 100000, text, type=cli.number(int, 10))
    text = "held-out points for the evaluation loss, and generated points for the KL divergence"
    add("eval_points", 10000, text, type=cli.number(int, 10))
    add_mode = cli.adder(group.add_mutually_exclusive_group())
    text = "train with many decay rates and step sizes instead of the five schedules"
    add_mode("sweep", False, text, action="store_true")
    text = "train on 8x8 digits with train_mnist.py and evaluate the FID"
    add_mode("digits", False, text, action="store_true")
    text = (
        "do not train: copy the numbers of these runs to docs/results and rewrite "
        "docs/lr_schedules.md and its figures"
    )
    add_mode("report", None, text, nargs="*", metavar="RUN")


def add_schedules(parser) -> None:
    add = cli.adder(parser, "learning-rate schedules")
    text = "steps between the decays of StepLR; 0: a third of --steps"
    add("step_size", 0, text, type=cli.count_or_none)
    fraction = cli.number(float, 0, 1, above=True)
    add("step_decay", 0.1, "decay factor of StepLR", type=fraction)
    text = "final learning rate of ExponentialLR as a fraction of --lr"
    add("exponential_end", 0.01, text, type=fraction)
    below_one = cli.number(float, 0, 0.999, above=True)
    add("plateau_decay", 0.5, "decay factor of ReduceLROnPlateau", type=below_one)
    text = "passes over the points that ReduceLROnPlateau waits for a lower loss"
    add("plateau_patience", 2, text, type=cli.count_or_none)


def check(args) -> None:
    flags.check_device(args)
    if args.report is not None and args.resume:
        raise ValueError("--report and --resume contradict each other")
    if args.digits and args.sweep:
        raise ValueError("--digits and --sweep contradict each other")
    if args.digits and args.resume:
        raise ValueError("--digits starts runs of train_mnist.py; resume them with that script")


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), KIND, check)

import torch

from common.errors import check_finite, guarded
from common.machine import progress_bar, setup
from common.run import Run
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules import report
from studies.lr_schedules.judging import HELD_OUT, REAL, TRAIN, judge
from studies.lr_schedules.points import DINO_PACKAGE, dino_points, points
from studies.lr_schedules.together import TIMESTEPS, Recipe, Together, batch, first_net


def recipes(args) -> list[Recipe]:
    """The five schedules, or those of the sweep: longer lived, and shorter, than the defaults."""
    if not args.sweep:
        options = {
            "step_size": args.step_size,
            "step_decay": args.step_decay,
            "exponential_end": args.exponential_end,
            "plateau_decay": args.plateau_decay,
            "plateau_patience": args.plateau_patience,
        }
        return [Recipe(name, name, options) for name in SCHEDULES]
    sizes = [(3, 0.1), (10, 0.9), (10, 0.5), (10, 0.1), (100, 0.9), (100, 0.1), (1000, 0.1)]
    ends = [0.1, 0.01, 1e-4, 1e-12]
    plateaus = [(0.5, 10), (0.5, 2), (0.1, 2), (0.1, 0)]
    return [
        Recipe("constant", "constant", {}),
        Recipe("cosine", "cosine", {}),
        *(Recipe(f"step 1/{n} x{decay:g}", "step", _step(args, n, decay)) for n, decay in sizes),
        *(Recipe(f"exponential to {e:g}", "exponential", {"exponential_end": e}) for e in ends),
        *(
            Recipe(f"plateau {p} x{d:g}", "plateau", {"plateau_decay": d, "plateau_patience": p})
            for d, p in plateaus
        ),
    ]


def _step(args, n, decay):
    return {"step_size": max(1, args.steps // n), "step_decay": decay}


def load(args, device) -> dict[str, dict[int, torch.Tensor]]:
    """The points of each set by their seed; dino is left out if its package is missing."""
    names = list(args.sets)
    if "dino" in names:
        try:
            dino_points()
        except ImportError as error:
            print(f"dino is left out ({error}): pip install {DINO_PACKAGE} brings its points")
            names.remove("dino")
    if not names:
        raise errors.Stop("no data set is left to train on", code=2)
    sizes = {TRAIN: args.points, HELD_OUT: args.eval_points, REAL: args.points}
    return {
        name: {
            seed: torch.tensor(points(name, n, seed), dtype=torch.float32, device=device)
            for seed, n in sizes.items()
        }
        for name in names
    }


def study(args, run: Run, data: dict) -> None:
    """Train and judge the runs of every seed, from wherever the run's folder stands."""
    device = next(iter(data.values()))[TRAIN].device
    process = Diffusion(Schedule("ddpm_unscaled", TIMESTEPS), device=device)
    at = {"seed": args.seed, "step": 0, "judged": 0}
    saved = run.restore()
    if saved:
        at = {name: saved["at"][name] for name in at}
    for seed in range(at["seed"], args.seed + args.seeds):
        groups = make_groups(args, list(data), seed, device)
        if saved:
            for name, group in groups.items():
                group.load_state_dict(saved["groups"][name])
            saved = None
        run.state = lambda groups=groups: {
            "step": (at["seed"] - args.seed) * args.steps + at["step"],
            "at": dict(at),
            "groups": {name: group.state_dict() for name, group in groups.items()},
        }
        train(args, run, at, groups, process, {name: x[TRAIN] for name, x in data.items()})
        judge(args, run, at, recipes(args), groups, process, data)
        at.update(seed=seed + 1, step=0, judged=0)
    total = args.seeds * args.steps
    run.finish({"seeds": args.seeds, "steps": total}, drawn=0)  # counted as they were drawn
    if not args.sweep:
        rows = report.rows_of(run.folder)
        print(report.tables(rows["lr_results"], rows["lr_timing"]))
        print(f"--report {run.folder} puts them, and the figures, into docs/lr_schedules.md")


def make_groups(args, names: list[str], seed: int, device) -> dict[str, Together]:
    """The runs of a seed, those of a data set together."""
    epoch = max(1, args.points // args.batch_size)
    net = first_net(seed).to(device)
    return {name: Together(recipes(args), args.lr, args.steps, epoch, net) for name in names}


def train(args, run: Run, at: dict, groups: dict, process, data: dict) -> None:
    """Step all runs of a seed up to the last step; a row of losses every --log_freq steps."""
    names = [f"{name}/{recipe.label}" for name in groups for recipe in recipes(args)]
    with progress_bar(
        total=args.steps, initial=at["step"], desc=f"seed {at['seed']}: {len(names)} runs"
    ) as bar:
        for step in range(at["step"], args.steps):
            x0s, t, eps = batch(data, args.batch_size, at["seed"], step)
            losses = []
            for name, group in groups.items():
                loss, norms = group.step(process, x0s[name], t, eps)
                for value, norm in zip(loss.tolist(), norms.tolist(), strict=True):
                    where = f"{name}, seed {at['seed']}, step {step + 1}"
                    check_finite(value, "the loss", where)
                    check_finite(norm, "the gradient's norm", where)
                    losses.append(value)
            at["step"] = step + 1
            run.evaluations["training"] += args.batch_size * len(names)
            if at["step"] % args.log_freq == 0 or at["step"] == args.steps:
                columns = dict(zip(names, losses, strict=True))
                run.row("losses.csv", seed=at["seed"], step=at["step"], **columns)
                mean = sum(losses) / len(losses)
                said = f"seed {at['seed']}, step {at['step']} of {args.steps}: mean loss {mean:.4f}"
                run.log(said, bar.disable)
            bar.update()
            run.poll()


def digits(args) -> None:
    """The five schedules through train_mnist.py's own training: a run's folder each."""
    import train_mnist
    from common.loop import run_script

    own = {n: getattr(args, n) for n in ("seed", "threads", "device", "runs_dir", "save_seconds")}
    own["device"] = "cpu" if args.cpu else args.device
    words = [*DIGITS, *(f"--{name}={value}" for name, value in own.items())]
    for schedule in SCHEDULES:
        given = [*words, "--lr_schedule", schedule]
        arguments = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, given)
        run_script("train", arguments, train_mnist.train, train_mnist.print_plan)


def main(args) -> None:
    if args.report is not None:
        report.publish([Path(folder) for folder in args.report])
        return
    if args.digits:
        digits(args)
        return
    device = setup(args)
    data = load(args, device)
    with Run.open(KIND, args, device, sets=sorted(data)) as run:
        if run.finished:
            run.log(f"{run.folder} is complete: nothing to resume")
            return
        run.log(f"{run.folder}: {len(data)} sets, {len(recipes(args))} runs each, on {device}")
        study(args, run, data)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "lr_schedules.py"))
