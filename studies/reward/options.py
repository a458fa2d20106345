"""The command line of finetune_reward.py, without torch: -h and a wrong flag answer at once."""

import importlib.util
import sys
from pathlib import Path

from common import cli, flags
from common.flag_checks import check_device
from common.locate import ROOT

KIND = "reward"  # of the run's folder
METHODS = ["bilevel", "grid", "random", "bayesian", "weighted_sum", "fixed", "unguided"]
ESTIMATORS = ["weighted", "published", "guided"]
SEARCHES = ("grid", "random", "bayesian", "weighted_sum")
SHIPPED = str(ROOT / "assets" / "mnist.pt")


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        "Guide a pre-trained diffusion model towards a reward r2; the strength of the entropy "
        "term, lambda, is chosen so that another reward, r1, is largest."
    )
    parser.prog = "finetune_reward.py"
    add_model(parser)
    add_rewards(parser)
    add_lower_level(parser)
    add_upper_level(parser)
    add_search(parser)
    add_evaluation(parser)
    runtime = cli.adder(flags.add_machine(parser))
    text = "print what the command would do and what it costs, then exit"
    runtime("dry_run", False, text, action="store_true")
    flags.add_output(parser)
    return parser


def add_model(parser) -> None:
    add = cli.adder(parser, "model")
    text = "checkpoint of the pre-trained network (default: the shipped one)"
    add("ckpt", None, text, metavar="FILE")
    text = (
        "Stable-Diffusion pipeline of Hugging Face diffusers, a folder or a name on the hub, "
        "in place of --ckpt; requires both rewards"
    )
    add("pipeline", None, text, metavar="PATH")
    add("prompt", None, "prompt of --pipeline (default: an empty prompt)")
    text = "classifier-free guidance scale of --pipeline; 1 samples without it"
    add("guidance_scale", 7.5, text, type=cli.number(float, 1))
    text = "side of the images of --pipeline in pixels (default: the pipeline's own)"
    add("pipeline_size", None, text, type=cli.count)
    add("data_dir", "data", "folder that contains MNIST/raw, for the Fréchet distance's reference")
    add("cache_dir", "cache", "folder in which samples and reference statistics are cached")


def add_rewards(parser) -> None:
    add = cli.adder(parser, "rewards")
    text = (
        "digit whose log-probability is r1 (default: chosen by the rule of docs/reward.md, with "
        "the direction)"
    )
    add("target_class", None, text, type=cli.number(int, 0, 9))
    text = "index of the random feature direction that serves as r2 (default: chosen by the rule)"
    add("direction", None, text, type=cli.count_or_none)
    add("n_directions", 8, "directions among which the rule chooses", type=cli.count)
    text = "samples without guidance that the rule and the standardisation of r2 use"
    add("choice_samples", 2048, text, type=cli.number(int, 2))
    text = (
        "r2 as a Python function, module:function, in place of the direction: it takes images "
        "(B,C,H,W) in [-1, 1] and returns differentiable values (B,)"
    )
    add("lower_reward", None, text, metavar="MODULE:FUNCTION")
    text = "r1 as a Python function, module:function, in place of the log-probability of a class"
    add("upper_reward", None, text, metavar="MODULE:FUNCTION")


def add_lower_level(parser) -> None:
    add = cli.adder(parser, "lower level")
    text = (
        "direct: the gradient of r2 itself guides each step; linearised: --passes runs from the "
        "same noise, each guided by the tangent of r2 at the images of the run before"
    )
    add("lower", "direct", text, choices=["direct", "linearised"])
    add("passes", 7, "guided passes of --lower linearised", type=cli.count)
    text = (
        "value to which the squared loss of the published code pulls r2 (default: none, r2 is "
        "raised)"
    )
    add("target", None, text, type=cli.parameter)
    add("beta", 1.0, "weight of the squared loss of --target", type=cli.positive)


def add_upper_level(parser) -> None:
    add = cli.adder(parser, "upper level")
    text = (
        "how lambda is chosen: by the bilevel method, or by a search over guided runs; "
        "weighted_sum searches for the weight in r2 + weight * r1, at --lambda0; fixed uses "
        "--lambda0"
    )
    add("method", "bilevel", text, choices=METHODS)
    text = (
        "gradient of the bilevel method: weighted uses importance weights on samples without "
        "guidance; published is the published estimator, with its divergences the wrong way "
        "round; guided is the published estimator from two guided runs a step"
    )
    add("estimator", "weighted", text, choices=ESTIMATORS)
    text = "lambda at which the bilevel method starts; the lambda of fixed and weighted_sum"
    add("lambda0", 5.0, text, type=cli.positive)
    text = (
        "largest lambda of the bilevel method, except with --estimator guided, and of the rule "
        "that chooses class and direction"
    )
    add("lambda_max", 100.0, text, type=cli.positive)
    text = (
        "smallest effective sample size of the importance weights; it bounds lambda from below, in "
        "the rule that chooses class and direction too"
    )
    add("min_ess", 60.0, text, type=cli.number(float, 2))
    add(
        "gamma",
        1000.0,
        "weight of the penalty: r2 + r1/gamma is compared with r2",
        type=cli.positive,
    )
    add("iterations", 200, "steps of the bilevel method", type=cli.count)
    add("step", 0.1, "step size of log lambda", type=cli.positive)
    add("max_step", 0.1, "largest change of log lambda in a step", type=cli.positive)
    text = "samples without guidance for the importance weights; they also set the budget"
    add("bank_samples", 4096, text, type=cli.number(int, 2))


def add_search(parser) -> None:
    add = cli.adder(parser, "search")
    text = "number of trials; 0: as many as the network evaluations of --bank_samples pay for"
    add("n_calls", 0, text, type=cli.count_or_none)
    text = "images in a trial, and in each run of --estimator guided"
    add("guided_samples", 64, text, type=cli.number(int, 2))
    options = {"type": cli.positive, "nargs": 2, "metavar": ("LOW", "HIGH")}
    text = "range of lambda in a search and with --estimator guided"
    add("lambda_range", [0.01, 100.0], text, **options)
    text = "range in which weighted_sum looks for the weight of r1"
    add("weight_range", [0.01, 10.0], text, **options)


def add_evaluation(parser) -> None:
    add = cli.adder(parser, "evaluation")
    add("backward_steps", 10, "DDIM steps per image", type=cli.count)
    add("tau_type", "linear", "spacing of the DDIM steps", choices=["linear", "quadratic"])
    add("no_clip", False, "do not clip the predicted x_0 to [-1, 1]", action="store_true")
    text = "images for the final numbers, from held-out noise"
    add("eval_samples", 128, text, type=cli.number(int, 2))
    add("eval_chunk", 64, "images sampled at once", type=cli.count)
    add("n_samples", 36, "images in the grids before and after", type=cli.count)


def check(args) -> None:
    check_device(args)
    for name in ("lambda_range", "weight_range"):
        low, high = getattr(args, name)
        if not low < high:
            raise ValueError(f"--{name} {low:g} {high:g}: the first must be below the second")
    if args.method == "bilevel" and args.estimator == "guided":
        low, high = args.lambda_range
        if not low <= args.lambda0 <= high:
            raise ValueError(f"--lambda0 {args.lambda0:g} is outside --lambda_range")
    elif args.method == "bilevel" and args.lambda0 > args.lambda_max:
        raise ValueError(f"--lambda0 {args.lambda0:g} exceeds --lambda_max {args.lambda_max:g}")
    if args.beta != 1 and args.target is None:
        raise ValueError("--beta requires --target")
    if args.n_samples > args.eval_samples:
        raise ValueError(f"--n_samples {args.n_samples} exceeds --eval_samples {args.eval_samples}")
    for flag in ("lower_reward", "upper_reward"):
        check_function(flag, getattr(args, flag))
    (check_pipeline if args.pipeline else check_digits)(args)


def check_function(flag: str, spec: str | None) -> None:
    """Refuse what is not module:function, or whose module is not there; nothing is imported."""
    if spec is None:
        return
    name, _, function = spec.partition(":")
    if not (name and function):
        raise ValueError(f"--{flag} {spec}: not of the form module:function")
    if (home := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, home)
    try:
        there = importlib.util.find_spec(name.split(".")[0])
    except (ImportError, ValueError):
        there = None
    if there is None:
        raise ValueError(f"--{flag} {spec}: no module {name.split('.')[0]}")


def check_digits(args) -> None:
    if args.prompt is not None or args.pipeline_size:
        raise ValueError("--prompt and --pipeline_size require --pipeline")
    args.ckpt = args.ckpt or SHIPPED
    if not Path(args.ckpt).is_file():
        raise ValueError(f"--ckpt {args.ckpt}: no such file")
    if args.lower_reward and not args.upper_reward and args.target_class is None:
        raise ValueError("--lower_reward requires --target_class or --upper_reward")
    if args.upper_reward and not args.lower_reward and args.direction is None:
        raise ValueError("--upper_reward requires --direction or --lower_reward")
    for reward, flag in (("lower_reward", "direction"), ("upper_reward", "target_class")):
        if getattr(args, reward) and getattr(args, flag) is not None:
            raise ValueError(f"--{reward} and --{flag} contradict each other")


def check_pipeline(args) -> None:
    if args.ckpt:
        raise ValueError("--pipeline and --ckpt contradict each other")
    for flag in ("lower_reward", "upper_reward"):
        if not getattr(args, flag):
            raise ValueError(f"--pipeline requires --{flag}, a function on its images")
    for flag in ("target_class", "direction"):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag} is for the digits, not for --pipeline")
