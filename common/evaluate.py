"""Evaluate the network of a finished run: python -m common.evaluate --run runs/00003"""

from argparse import Namespace

from common import cli
from common.flag_checks import check_data, check_sampling
from common.flags import (
    EPS_SCALE_TEXT,
    ETA_TEXT,
    EXTRACTOR_TEXT,
    EXTRACTORS,
    add_sampling_schedule,
)


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        "Evaluate the averaged network of a run; the scores are added to its summary.json."
    )
    parser.prog = "python -m common.evaluate"
    add = cli.adder(parser)
    text = "run to evaluate: its folder or number, or 'latest'; of a search, its best trial"
    add("run", None, text, required=True)
    text = "images for the FID and Inception Score"
    add("eval_samples", 10000, text, type=cli.number(int, 2, 10**8))
    add("extractor", None, f"{EXTRACTOR_TEXT} (default: the run's)", choices=EXTRACTORS)
    text = "pytorch-fid's InceptionV3 weights as a local file; downloaded if not given"
    add("inception_weights", None, text, metavar="FILE")
    add("data_dir", None, "folder that contains MNIST/raw or FashionMNIST/raw (default: the run's)")
    text = "folder in which reference statistics of the FID are cached "
    add("cache_dir", "cache", text)
    text = "cpu, mps, cuda or cuda:N; auto takes cuda if available, else mps, else cpu"
    add("device", "auto", text, type=cli.device)
    add("threads", 0, "CPU threads; 0: torch's default", type=cli.threads)
    text = "DDIM steps per sampled image (default: the run's)"
    add("backward_steps", None, text, type=cli.count)
    add("eta", None, f"{ETA_TEXT} (default: the run's)", type=cli.number(float, 0, 1))
    text = f"{EPS_SCALE_TEXT} (default: the run's)"
    add("eps_scale", None, text, type=cli.number(float, 0, 2))
    text = "do not clip the predicted x_0 to [-1, 1] during sampling, even if the run did"
    either = cli.adder(parser.add_mutually_exclusive_group())
    either("no_clip", None, text, action="store_true")
    text = "clip it, even if the run did not"
    either("clip", None, text, action="store_false", dest="no_clip")
    add_sampling_schedule(add)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
import sys
from pathlib import Path

from common import checkpoint, locate, processes
from common.errors import Stop, guarded, read_json
from common.judging import Judges, judge_checkpoint
from common.machine import setup
from common.networks import network_in
from common.sampling import SAMPLED_BY, SamplerSettings

UNSET = {"data_dir": "data", "extractor": None, "inception_weights": None}


def judge_again(args) -> None:
    """FID and IS of a run's newest whole checkpoint, added to its summary.json if there is one."""
    folder = run_folder(args.run)
    # there is one: find_trained has looked
    state, path = checkpoint.load_newest(folder / "checkpoints", log)  # type: ignore[misc]
    given = {name: value for name, value in vars(args).items() if value is not None}
    network_in(state, "cpu", str(path))  # refuses what is not a checkpoint of a run
    # --cache_dir is always given: a folder from someone else does not say where to write
    flags = {**UNSET, **state["args"], **given}
    if args.inception_weights and flags["extractor"] != "inception":
        raise Stop("--inception_weights requires --extractor inception", code=2)
    if "data_dir" not in given:
        check_place(flags)
    for name, fixed in (("eta", "eta is 1"), ("backward_steps", "steps are all T")):
        if name in given and flags["sampler"] == "ddpm":
            raise Stop(f"--{name}: the run samples with --sampler ddpm, whose {fixed}", code=2)
    if flags["backward_steps"] > flags["timesteps"]:
        raise Stop(
            f"--backward_steps {flags['backward_steps']} exceeds the run's T = "
            f"{flags['timesteps']}",
            code=2,
        )
    other = sampling_of(flags, given)
    device = setup(args.device, threads=args.threads)
    judges = Judges.from_flags(device, **flags)
    settings = SamplerSettings.from_flags(**flags)
    scores = judge_checkpoint(path, judges, device, args.eval_samples, settings, **other)
    processes.meet()
    if processes.rank() > 0:  # of torchrun: the first one reports
        return
    asked = given | (other if "sampling_schedule" in given or "told" in given else {})
    changed = {name: asked[name] for name in SAMPLED_BY if name in asked}
    print(json.dumps(scores | changed, indent=2))
    summary_path = folder / "summary.json"
    if summary_path.exists():  # it marks a run as complete, so an unfinished run gets none
        summary = read_json(summary_path)
        entry = {**scores, **changed, "checkpoint": path.name}
        earlier = summary.get("judged_again", [])
        if not isinstance(earlier, list):
            raise Stop(f"{summary_path}: damaged (judged_again is no list)")
        summary["judged_again"] = [*earlier, entry]
        checkpoint.write_json(summary_path, summary)


def check_place(flags: dict) -> None:
    """The folder of a run, maybe a stranger's, does not say where its data are downloaded to."""
    try:
        check_data(Namespace(**flags))
    except ValueError as error:
        raise Stop(str(error), code=2) from None


def sampling_of(flags: dict, given: dict) -> dict:
    """The sampling schedule and how the network is told its times: the run's, unless given."""
    stored = {} if "sampling_schedule" in given else flags
    both = {name: given.get(name, stored.get(name)) for name in ("sampling_schedule", "told")}
    asked = Namespace(**{**flags, **both})
    try:
        check_sampling(asked)
    except ValueError as error:
        raise Stop(str(error), code=2) from None
    return {name: getattr(asked, name) for name in both}


def run_folder(name: str) -> Path:
    """The run's folder, or that of a search's best trial; `latest` has a checkpoint."""
    try:
        return locate.find_trained(name)
    except ValueError as error:
        raise Stop(f"--run {name}: {error}", code=2) from None


def log(text: str) -> None:
    """Beside the scores, which are JSON on stdout."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(guarded(judge_again, ARGS, "evaluate"))
