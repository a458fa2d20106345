"""The flags of the bilevel script and its recipes: what a recipe sets, and which flags it reads."""

import argparse

from common import cli
from common.families import TOLD

FROZEN_UPDATES, FROZEN_IMAGES = 100, 256  # docs/comparison.md compares others

# the flags that --recipe sets; a flag given explicitly takes precedence
RECIPES: dict[str, dict[str, object]] = {
    "ours": {"theta_z": "kept", "zo_samples": 128},
    "paper": {
        "theta_z": "recopied",
        "zo_samples": 36,
        "noise": "independent",
        "perturbation": "published",
    },
    "exact": {"theta_z": "coupled", "zo_samples": 64, "upper_gradient": "exact", "gamma": "auto"},
}
OTHERWISE: dict[str, object] = {
    "noise": "common",
    "upper_gradient": "zo",
    "gamma": 1.0,
    "perturbation": "scaled",
}  # in the other recipes
# flags that only an uncoupled theta_z reads, and those that only a coupled one reads
UNCOUPLED: dict[str, object] = {
    "inner_loop_z": 1,
    "gamma_end": 1.0,
    "lr_z": 0.001,
    "delta": 0.01,
    "ZO_type": "two",
    "zo_directions": 1,
}
ZEROTH = ("delta", "ZO_type", "zo_directions")  # those that only a zeroth-order difference reads
COUPLED = {"exact_every": 50, "update_every": 50, "settle_steps": 100, "average_steps": 100}
COUPLED |= {"difference_batches": 8}


def add_bilevel(add) -> None:
    """Both levels, how the upper one is differentiated, the recipe, and a coupled theta_z."""
    add_levels(add)
    add_estimates(add)
    add_recipe(add)
    add_coupled(add)


def add_levels(add) -> None:
    text = "epochs at the beginning that train the network alone and leave the schedule fixed"
    add("initial_epoch", 2, text, type=cli.count_or_none)
    add("inner_loop", 1, "training steps of theta_y per iteration", type=cli.count)
    text = "training steps of theta_z per iteration, unless it is coupled (default: 1)"
    add("inner_loop_z", None, text, type=cli.count)
    text = "gamma at the first schedule update; the FID is weighted by 1/gamma"
    text += "; auto: from the sizes of the FID and the loss (default: set by --recipe)"
    add("gamma", None, text, type=gamma_or_auto)
    text = "gamma at the last schedule update, unless theta_z is coupled; it changes linearly in "
    text += "between (default: 1)"
    add("gamma_end", None, text, type=cli.positive)
    text = "learning rate of theta_z, unless it is coupled (default: 0.001)"
    add("lr_z", None, text, type=cli.positive)
    text = (
        "largest step of an update for start, end, tau (or all knots) and epsilon; in zeroth-order "
        "recipes and with --freeze_network, peak learning rates of AdamW; 0 holds one fixed"
    )
    add("lr_beta", [0.01, 0.01, 0.1, 0.001], text, type=cli.number(float, 0), nargs=4)


def add_estimates(add) -> None:
    text = "size of the zeroth-order perturbation (default: 0.01)"
    add("delta", None, text, type=cli.positive)
    text = (
        "zeroth-order perturbation of the schedule; scaled: --delta for start, in proportion to "
        "the widths of their search ranges for the other parameters, and inside all bounds; "
        "published: --delta for each, also beyond the bounds (default: set by --recipe)"
    )
    add("perturbation", None, text, choices=["scaled", "published"])
    text = "zeroth-order estimator: two-point difference or one-point residual (default: two)"
    add("ZO_type", None, text, choices=["two", "one"])
    text = (
        "how the FID is differentiated: zo: zeroth-order estimates; forward: dFID/dq exact, in "
        "forward mode, dFID/dtheta zeroth-order; exact: both exact, in reverse mode, in float32"
    )
    text += " (default: set by --recipe)"
    add("upper_gradient", None, text, choices=["zo", "forward", "exact"])
    text = "random directions averaged in each zeroth-order gradient (default: 1)"
    add("zo_directions", None, text, type=cli.count)
    text = (
        "exact gradients differentiate the DDIM steps at times up to this fraction of T and take "
        "the later, noisier ones as constants (default: all steps but those at which almost no "
        "signal is left)"
    )
    add("truncation", None, text, type=cli.number(float, 0, 1, above=True))


def add_recipe(add) -> None:
    text = (
        "values of --theta_z, --zo_samples, --noise, --upper_gradient and --gamma, in this order; "
        "exact: coupled 64 common exact auto; ours: kept 128 common zo 1; paper: recopied 36 "
        "independent zo 1, with --perturbation published, --no_clip, the published average of the "
        "network and weight decay on the schedule (default: exact; ours where a flag is given that "
        "exact does not use, such as --inner_loop_z)"
    )
    add("recipe", None, text, choices=list(RECIPES))
    text = (
        "starting noise of the two sides of a difference of FIDs, and times and noise of the two "
        "losses that are compared (default: set by --recipe)"
    )
    add("noise", None, text, choices=["common", "independent"])
    text = (
        "kept: theta_z keeps training from one iteration to the next; recopied: it is reset to "
        "theta_y in each iteration; coupled: it takes every step of theta_y, on the same draws, "
        "with the gradient of the FID on top (default: set by --recipe)"
    )
    add("theta_z", None, text, choices=["kept", "recopied", "coupled"])
    text = "images per FID of the upper level (default: set by --recipe; "
    text += f"{FROZEN_IMAGES} with --freeze_network)"
    add("zo_samples", None, text, type=cli.number(int, 2))


def add_coupled(add) -> None:
    text = "steps of a coupled theta_z that share one exact gradient of the FID"
    add("exact_every", COUPLED["exact_every"], text, type=cli.count)
    text = "steps of a coupled theta_z between two updates of the schedule"
    add("update_every", COUPLED["update_every"], text, type=cli.count)
    text = "steps of a coupled theta_z after which the schedule may be updated"
    add("settle_steps", COUPLED["settle_steps"], text, type=cli.count_or_none)
    text = (
        "averaging window, in steps, of theta_y and of a coupled theta_z, whose losses are compared"
    )
    add("average_steps", COUPLED["average_steps"], text, type=cli.count)
    text = "batches on which the losses of theta_y and of a coupled theta_z are differentiated"
    add("difference_batches", COUPLED["difference_batches"], text, type=cli.count)


def add_frozen(add) -> None:
    text = (
        "learn a sampling schedule for the trained network of --ckpt, and move no weight; it "
        "begins as that network's schedule, but for the values that --initial_start and the like "
        "give"
    )
    add("freeze_network", False, text, action="store_true")
    text = "updates of the schedule with --freeze_network, each after an FID; the schedule with "
    text += "the lowest is kept"
    add("frozen_updates", FROZEN_UPDATES, text, type=cli.count)
    text = (
        "time that a frozen network receives as input; visited: the time of the DDIM step; "
        "nearest: the training time of the nearest noise level, which jumps as the schedule moves "
        "and misleads the gradient (default: visited)"
    )
    add("told", None, text, choices=TOLD)


# what --freeze_network reads; and lr, which a comparison gives to every run
READ = set(
    """ckpt dry_run frozen_updates freeze_network told scheduler knots lr_beta zo_samples truncation
    batch_size lr seed backward_steps no_clip tau_type eps_scale eval_chunk eval_samples extractor
    inception_weights reference data_dir cache_dir dataset image_size model_base_dim timesteps
    input_scale no_normalise time_condition device cpu threads tf32 runs_dir log_freq
    tensorboard initial_start initial_end initial_tau initial_epsilon""".split()
)


def check_frozen(args, defaults) -> None:
    """Refuse what does not apply to --freeze_network, before it is filled in."""
    if not args.ckpt:
        raise ValueError("--freeze_network requires --ckpt")
    if args.resume:
        raise ValueError("--freeze_network and --resume contradict each other")
    if args.upper_gradient not in (None, "exact"):
        raise ValueError("--freeze_network has exact gradients: --upper_gradient does not apply")
    exact = {"recipe": "exact", "upper_gradient": "exact"}  # which it is
    for name, unset in vars(defaults).items():
        if name not in READ and getattr(args, name) not in (unset, exact.get(name, unset)):
            raise ValueError(f"--freeze_network does not read --{name}")
    if args.scheduler in ("linear", "sigmoid"):
        raise ValueError(
            f"--scheduler {args.scheduler}: --freeze_network begins with the schedule of --ckpt, "
            "as it is or, with --scheduler knots, as knots"
        )


def gamma_or_auto(text):
    """An argparse type: a number above 0, or `auto`."""
    try:
        return text if text == "auto" else cli.positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor auto") from None


def apply_recipe(args) -> None:
    """Fill in what the recipe says; a flag that belongs to another recipe chooses that one."""
    foreign = [name for name in UNCOUPLED if getattr(args, name) is not None]
    foreign += ["noise"] if args.noise == "independent" else []
    foreign += ["perturbation"] if args.perturbation else []
    foreign += [n for n in ("theta_z", "upper_gradient") if getattr(args, n) not in (None, "exact")]
    selected = args.recipe is None and foreign and args.theta_z != "coupled"
    if args.recipe is None:
        args.recipe = "ours" if selected else "exact"
    chosen, differences = args.perturbation, [n for n in ZEROTH if getattr(args, n) is not None]
    frozen = {"zo_samples": FROZEN_IMAGES} if args.freeze_network else {}
    for name, value in {**OTHERWISE, **RECIPES[args.recipe], **frozen}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.no_clip = args.no_clip or args.recipe == "paper"
    if chosen and args.upper_gradient != "zo" and not args.resume:
        raise ValueError("--perturbation applies to --upper_gradient zo alone")
    if differences and args.upper_gradient == "exact" and not args.resume:
        raise ValueError(
            f"--upper_gradient exact takes no difference: --{differences[0]} is unused"
        )
    if args.truncation not in (None, 1) and args.upper_gradient == "zo" and not args.resume:
        raise ValueError("--truncation requires --upper_gradient exact or forward")
    coupled = args.theta_z == "coupled"
    unused = [name for name in UNCOUPLED if coupled and getattr(args, name) is not None]
    unused += [n for n, v in COUPLED.items() if not coupled and getattr(args, n) != v]
    if unused:
        by = f", which --{foreign[0]} selected" if selected else ""
        raise ValueError(f"--{unused[0]} is not used with --theta_z {args.theta_z}{by}")
    for name, value in UNCOUPLED.items():
        if not coupled and getattr(args, name) is None:
            setattr(args, name, value)
    if coupled and args.upper_gradient != "exact":
        raise ValueError("--theta_z coupled requires --upper_gradient exact")
    if args.gamma == "auto" and not coupled:
        by = f", which --{foreign[0]} selected" if selected else ""
        clause = "" if args.recipe == "exact" else f" with --recipe {args.recipe}{by}"
        raise ValueError(
            f"--theta_z {args.theta_z}{clause} requires a number for --gamma, not auto"
        )


def check_combinations(args) -> None:
    """Refuse what no run can do or would read, once the recipe has filled in its flags."""
    if args.told and not (args.freeze_network or args.resume):
        raise ValueError("--told requires --freeze_network")
    if args.frozen_updates != FROZEN_UPDATES and not (args.freeze_network or args.resume):
        raise ValueError("--frozen_updates requires --freeze_network")
    if args.upper_gradient != "zo" and args.noise == "independent":
        raise ValueError(
            f"--upper_gradient {args.upper_gradient} is not combined with --noise independent: "
            "add --noise common"
        )
    if args.initial_epoch >= args.epochs and not args.freeze_network:
        raise ValueError(
            f"--initial_epoch {args.initial_epoch} leaves none of --epochs {args.epochs} for the "
            "schedule: lower it, or use train_mnist.py to train with a fixed schedule"
        )
