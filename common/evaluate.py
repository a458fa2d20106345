"""Evaluate the network of a finished run: python -m common.evaluate --run runs/00003"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        "Evaluate the averaged network of a run; the scores are added to its summary.json."
    )
    add = cli.adder(parser)
    add("run", None, "folder of the run; a number such as runs/00003 is enough", required=True)
    text = "images for the FID and Inception Score"
    add("eval_samples", 10000, text, type=cli.number(int, 2))
    text = "feature extractor for FID and IS (default: the run's)"
    add("extractor", None, text, choices=["mnist", "inception"])
    text = "pytorch-fid's InceptionV3 weights as a local file; downloaded if not given"
    add("inception_weights", None, text, metavar="FILE")
    add("data_dir", None, "folder that contains MNIST/raw (default: the run's)")
    text = "folder in which reference statistics of the FID are cached (default: the run's)"
    add("cache_dir", None, text)
    text = "cpu, mps, cuda or cuda:N; auto takes cuda if available, else mps, else cpu"
    add("device", "auto", text, type=cli.device)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
import sys

from common import checkpoint
from common.errors import Stop, guarded
from common.judging import Judge, judge_checkpoint
from common.machine import setup


def judge_again(args) -> None:
    """FID and IS of a run's newest checkpoint, added to its summary.json if there is one."""
    folder = cli.by_number(args.run)
    if not folder.is_dir():
        raise Stop(f"--run {args.run}: no such run, or more than one", code=2)
    path = checkpoint.newest(folder)
    if not path:
        raise Stop(f"--run {folder}: no checkpoint in it", code=2)
    given = {k: v for k, v in vars(args).items() if v is not None}
    settings = {**checkpoint.load(path)["args"], **given}
    device = setup(args.device)
    judge = Judge.from_flags(device, **settings)
    scores = judge_checkpoint(path, judge, device, args.eval_samples)
    print(json.dumps(scores, indent=2))
    known = folder / "summary.json"
    if known.exists():  # a summary marks a run as complete, so an unfinished run gets none
        summary = json.loads(known.read_text())
        summary.setdefault("judged_again", []).append({**scores, "checkpoint": path.name})
        checkpoint.write_atomically(known, (json.dumps(summary, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(guarded(judge_again, ARGS, "evaluate"))
