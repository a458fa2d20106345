"""The command line of the study, without torch: -h and a wrong flag answer at once."""

from common import cli, flags
from common.flag_checks import check_device

KIND = "lr_schedules"  # of the run's folder
SETS = ["circle", "dino", "line", "moons"]
LR_SCHEDULES = ["constant", "step", "exponential", "plateau", "cosine"]


def make_parser() -> cli.Parser:
    parser = cli.Parser("Compare learning-rate schedules of a diffusion model on 2-D data.")
    parser.prog = "python -m studies.lr_schedules"
    add_study(parser)
    add_lr_schedules(parser)
    flags.add_machine(parser)
    flags.add_output(parser, tensorboard=False).set_defaults(log_freq=100)
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
        "do not train: copy the numbers of these runs to docs/results and fill "
        "the tables of docs/lr_schedules.md and draw its figures"
    )
    add_mode("report", None, text, nargs="*", metavar="RUN")


def add_lr_schedules(parser) -> None:
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
    check_device(args)
    if args.report is not None and args.resume:
        raise ValueError("--report and --resume contradict each other")
    if args.digits and args.resume:
        raise ValueError("--digits starts runs of train_mnist.py; resume them with that script")
