"""The flag groups that the scripts share, and the checks of their combinations; no torch."""

from pathlib import Path

from common.cli import count, count_or_none, device, number, parameter, positive
from common.families import FAMILIES, complete, read_schedule

TIMESTEPS = 1000  # where no flag and no schedule's file says another length


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
            default=None,
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
