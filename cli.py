"""What the scripts' command lines share, without importing torch: a wrong flag answers at once."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

from families import FAMILIES, complete, read_schedule

TIMESTEPS = 1000  # where no flag and no schedule's file says another length
# resuming takes its arguments from the run; only these may be given beside --resume
MAY_CHANGE = {
    "resume",
    "runs_dir",
    "device",
    "cpu",
    "threads",
    "save_seconds",
    "log_freq",
    "dry_run",
}


class Stop(Exception):
    """A reason to end the run that its user can act on: printed as one line, no traceback."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one: not None, False or ''."""

    def _get_help_string(self, action):
        empty = action.default is None or action.default is False or action.default == ""
        return action.help if empty else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, no abbreviations and errors of one line."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: Help(prog, width=100),
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (-h explains the flags)\n")


def number(kind, low=-math.inf, high=math.inf, above=False):
    """An argparse type: a finite int or float in [low, high], or in (low, high] with `above`."""
    name = "whole number" if kind is int else "number"
    bound = f" {'above' if above else 'of at least'} {low:g}" if low > -math.inf else ""
    bound += f" and at most {high:g}" if high < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            value, finite = math.nan, False
        if not (finite and low <= value <= high and not (above and value == low)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {name}{bound}")
        return value

    return parse


def device(text):
    """An argparse type: the name of a device that torch may have."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, mps, cuda or cuda:N")
    return text


count = number(int, 1)
count_or_none = number(int, 0)
positive = number(float, 0, above=True)
parameter = number(float)


def add_data(parser):
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=["mnist", "digits"],
        default="mnist",
        help="mnist: 28x28; digits: scikit-learn's 8x8 digits, which need no download",
    )
    group.add_argument(
        "--data_dir",
        default="data",
        help="folder that holds MNIST/raw; downloaded to if it is not there",
    )
    group.add_argument(
        "--cache_dir", default="cache", help="folder for the reference statistics of FID"
    )


def add_network(parser):
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model_base_dim",
        type=count,
        default=64,
        help="channels of the first layer, a multiple of 4",
    )


def add_process(group):
    """The flags of the diffusion process that every script has, fixed schedule or learned."""
    group.add_argument(
        "--timesteps", type=count, default=TIMESTEPS, help="T, length of the process"
    )
    group.add_argument(
        "--input_scale",
        type=positive,
        default=1.0,
        help="b in x_t = sqrt(ab) b x_0 + sqrt(1-ab) eps",
    )
    group.add_argument(
        "--no_normalise",
        action="store_true",
        help="do not divide the network's input by its standard deviation (matters if b is not 1)",
    )


def add_schedule(parser):
    group = parser.add_argument_group("schedule")
    group.add_argument(
        "--scheduler_type",
        choices=list(FAMILIES),
        default="cosine",
        help="family of the noise schedule",
    )
    for name, what in (
        ("start", "where the curve is entered"),
        ("end", "where the curve is left"),
        ("tau", "temperature"),
        ("epsilon", "offset"),
    ):
        own = ", ".join(f"{f} {b[name][0]:g}" for f, b in FAMILIES.items() if name in b)
        group.add_argument(
            f"--{name}",
            type=parameter,
            default=argparse.SUPPRESS,
            help=f"{what} (default: the family's own: {own})",
        )
    group.add_argument(
        "--schedule_from", metavar="FILE", help="take family, T and parameters from a schedule.json"
    )
    group.add_argument(
        "--sampling_schedule",
        metavar="FILE|FAMILY",
        help="sample with another schedule: a schedule.json, or a family with its defaults",
    )
    add_process(group)


def add_training(parser, epochs=100):
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=count, default=epochs, help="passes over the training images"
    )
    group.add_argument("--batch_size", type=number(int, 2), default=128, help="images a step")
    group.add_argument("--lr", type=positive, default=0.001, help="AdamW's highest learning rate")
    group.add_argument(
        "--lr_schedule",
        choices=["onecycle", "constant", "cosine", "step", "exponential", "plateau"],
        default="onecycle",
        help="course of the learning rate",
    )
    group.add_argument(
        "--model_ema_steps",
        type=count,
        default=10,
        help="steps between updates of the averaged network",
    )
    group.add_argument(
        "--model_ema_decay",
        type=number(float, 0, 1),
        default=0.995,
        help="decay of the averaged network",
    )
    group.add_argument(
        "--limit_batches", type=count_or_none, default=0, help="steps an epoch at most; 0: all"
    )
    group.add_argument("--ckpt", default="", help="start from the weights in this checkpoint")


def add_evaluation(parser):
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--n_samples", type=count, default=36, help="images in the picture of each epoch"
    )
    group.add_argument(
        "--backward_steps", type=count, default=100, help="DDIM steps that each sampling visits"
    )
    group.add_argument(
        "--tau_type",
        choices=["linear", "quadratic"],
        default="linear",
        help="spacing of the DDIM steps",
    )
    group.add_argument(
        "--sampler",
        choices=["ddim", "ddpm"],
        default="ddim",
        help="ddpm visits all T steps, with noise",
    )
    group.add_argument(
        "--no_clip",
        action="store_true",
        help="do not clip the predicted x_0 to [-1, 1] while sampling",
    )
    group.add_argument(
        "--fid_samples",
        type=count_or_none,
        default=500,
        help="images for FID and IS after each epoch, 0: none; 500 with 100 DDIM steps cost about "
        "a quarter of an MNIST epoch",
    )
    group.add_argument(
        "--eval_samples",
        type=count_or_none,
        default=10000,
        help="images for the final FID and IS, 0: none; 10000 with 100 DDIM steps cost about "
        "five MNIST epochs",
    )
    group.add_argument(
        "--extractor",
        choices=["mnist", "inception"],
        default="mnist",
        help="features for FID and IS: our digit classifier, or the paper's InceptionV3",
    )
    group.add_argument(
        "--inception_weights",
        metavar="FILE",
        help="InceptionV3 weights of pytorch-fid, instead of a download",
    )


def add_runtime(parser):
    group = add_machine(parser)
    group.add_argument("--amp", action="store_true", help="train and sample in bfloat16 autocast")
    group.add_argument(
        "--compile",
        choices=["off", "fused", "graphs"],
        default="off",
        help="compile the networks, which takes minutes at the start; graphs: CUDA graphs too",
    )
    group.add_argument(
        "--dry_run", action="store_true", help="say what would be done and what it costs, and stop"
    )


def add_machine(parser):
    """The runtime flags of every script that makes runs."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--device",
        type=device,
        default="auto",
        help="auto (cuda, else mps, else cpu), cpu, mps, cuda or cuda:N",
    )
    group.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    group.add_argument(
        "--seed", type=number(int, 0, 2**32 - 1), default=0, help="of every random stream"
    )
    group.add_argument(
        "--threads",
        type=count_or_none,
        default=0,
        help="CPU threads; 0: as many as torch takes; on a busy machine take fewer",
    )
    group.add_argument(
        "--save_seconds",
        type=number(float, 0),
        default=60.0,
        help="time between checkpoints; 0: one after each step",
    )
    group.add_argument(
        "--resume",
        metavar="latest|RUN",
        help="go on with an unfinished run: its folder, or the latest",
    )
    return group


def add_output(parser):
    group = parser.add_argument_group("output")
    group.add_argument(
        "--runs_dir", default="runs", help="each run makes a numbered folder in here"
    )
    group.add_argument("--log_freq", type=count, default=10, help="steps between lines of the log")
    return group


def parse(
    parser: Parser, kind: str, check=lambda args: None, argv=None, common=None
) -> argparse.Namespace:
    """Parse and check the arguments. A run that resumes takes its own arguments back."""
    unset = object()
    dests = [action.dest for action in parser._actions if action.dest != "help"]
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(dests, unset)))
    given = {name: value for name, value in vars(args).items() if value is not unset}
    for action in parser._actions:
        if given.get(action.dest) == [] and action.nargs != "*":  # "--flag=--" in Python 3.11
            parser.error(f"argument --{action.dest}: '--' is not a value")
    defaults = {name: parser.get_default(name) for name in dests}
    defaults = {n: None if d is argparse.SUPPRESS else d for n, d in defaults.items()}
    try:
        if given.get("resume"):
            runs_dir = given.get("runs_dir", defaults["runs_dir"])
            folder = find_run(runs_dir, kind, given["resume"])
            stored = read_arguments(folder, kind)
            other = [n for n in given if n not in MAY_CHANGE and given[n] != stored.get(n)]
            if other:
                raise ValueError(
                    f"--{other[0]} differs from the run's own; start a new run to change it"
                )
            given = {**stored, **{n: given[n] for n in given if n in MAY_CHANGE}}
            given["resume"] = str(folder)
        args = argparse.Namespace(**{**defaults, **given})
        (common or check_common)(args)
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_device(args) -> None:
    """--cpu beside another device; a ValueError."""
    if args.cpu and args.device not in ("auto", "cpu"):
        raise ValueError(f"--cpu and --device {args.device} contradict each other")


def check_common(args) -> None:
    """Combinations that no training script can run; ValueError says which flag."""
    check_device(args)
    if args.model_base_dim % 4:
        raise ValueError(f"--model_base_dim {args.model_base_dim} is not a multiple of 4")
    for flag in ("fid_samples", "eval_samples"):
        if getattr(args, flag) == 1:
            raise ValueError(f"--{flag} 1: a FID needs at least 2 images; 0 turns it off")
    if args.inception_weights and args.extractor != "inception":
        raise ValueError("--inception_weights is read with --extractor inception only")
    begun = args.resume and any(Path(args.resume).glob("checkpoints/step_*.pt"))
    for flag in ("ckpt", "inception_weights"):
        path = getattr(args, flag)
        if flag == "ckpt" and begun:
            args.ckpt = path = ""  # its weights are in the run's own checkpoints by now
        if path and not Path(path).is_file():
            raise ValueError(f"--{flag} {path}: no such file")


def check_schedule(args) -> None:
    """Check and complete the flags of a fixed schedule."""
    given = {name: getattr(args, name) for name in ("start", "end", "tau", "epsilon")}
    if args.schedule_from and not args.resume:
        if any(value is not None for value in given.values()):
            raise ValueError("--schedule_from brings its own start, end, tau and epsilon")
        args.scheduler_type, timesteps, given = read_schedule(args.schedule_from)
        if args.timesteps not in (TIMESTEPS, timesteps):
            raise ValueError(
                f"--timesteps {args.timesteps}: --schedule_from brings its own, {timesteps}"
            )
        args.timesteps = timesteps
    other = args.sampling_schedule
    if isinstance(other, str) and other not in FAMILIES:
        # by content, not by name: the file may be another one when the run is resumed
        family, timesteps, values = read_schedule(other)
        args.sampling_schedule = {"family": family, "timesteps": timesteps, **values}
    vars(args).update(complete(args.scheduler_type, given))
    check_steps(args)


def check_steps(args) -> None:
    if args.backward_steps > args.timesteps:
        raise ValueError(
            f"--backward_steps {args.backward_steps} exceeds the schedule's {args.timesteps} steps "
            "(--timesteps, or a schedule's file)"
        )


def words(parser: Parser, args, skip=()) -> list[str]:
    """The flags that say `args` to a parser: those that are not at their defaults."""
    said = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in skip or value in (None, action.default):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        said += [action.option_strings[-1], *map(str, values)]
    return said


def find_run(runs_dir: str, kind: str, where: str) -> Path:
    """The folder of a run: the one that `where` names, or the latest of its kind to go on with."""
    if where != "latest":
        folder = by_number(where)
        if (folder / "args.json").is_file():
            return folder
        raise ValueError(f"--resume {where}: not a run's folder (it has no args.json)")
    folders = sorted(Path(runs_dir).glob(f"[0-9]*-{kind}-*/args.json"))
    if not folders:
        raise ValueError(f"--resume latest: no {kind} run in {runs_dir}")
    unfinished = [f for f in folders if not f.with_name("summary.json").exists()]
    return (unfinished or folders)[-1].parent


def by_number(where: str) -> Path:
    """The folder runs/00003-train-seed0 for runs/00003, where there is one of that number."""
    folder = Path(where)
    found = [] if folder.is_dir() else sorted(folder.parent.glob(f"{folder.name}-*"))
    return found[0] if len(found) == 1 else folder


def read_arguments(folder: Path, kind: str) -> dict:
    """The arguments a run was started with."""
    try:
        content = json.loads((folder / "args.json").read_text())
        arguments, its_kind = dict(content["arguments"]), content["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}/args.json: cannot be read") from None
    if its_kind != kind:
        raise ValueError(f"{folder} is a {its_kind} run: its own script resumes it")
    return arguments


def one_line(prog: str, error: Exception) -> None:
    print(f"{prog}: {error}", file=sys.stderr)
