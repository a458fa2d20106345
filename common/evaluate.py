"""Judge the network of a run again: python -m common.evaluate --run runs/00003"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        "Judge a run's averaged network again; the numbers go into its summary.json."
    )
    parser.add_argument("--run", required=True, help="the run's folder, whole or as in runs/00003")
    parser.add_argument(
        "--eval_samples", type=cli.number(int, 2), default=10000, help="images drawn"
    )
    parser.add_argument(
        "--extractor", choices=["mnist", "inception"], help="default: the run's own"
    )
    parser.add_argument("--inception_weights", metavar="FILE", help="instead of a download")
    parser.add_argument("--data_dir", help="folder that holds MNIST/raw; default: the run's own")
    parser.add_argument("--cache_dir", help="of the reference statistics; default: the run's own")
    parser.add_argument(
        "--device", type=cli.device, default="auto", help="auto, cpu, mps, cuda or cuda:N"
    )
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import argparse
import json
import sys

from common import checkpoint
from common.errors import Stop, guarded
from common.judging import judge_checkpoint
from common.machine import setup


def judge_again(args) -> None:
    """FID and IS of a run's newest checkpoint, appended to its summary.json if it has one."""
    folder = cli.by_number(args.run)
    if not folder.is_dir():
        raise Stop(f"--run {args.run}: no such run, or several", code=2)
    path = checkpoint.newest(folder)
    if not path:
        raise Stop(f"--run {folder}: it has no checkpoint", code=2)
    given = {k: v for k, v in vars(args).items() if v is not None}
    own = checkpoint.load(path)["args"]
    args = argparse.Namespace(**{**own, "cpu": False, **given})
    scores = judge_checkpoint(path, args, setup(args))
    print(json.dumps(scores, indent=2))
    known = folder / "summary.json"
    if known.exists():  # a summary says that a run is complete: an unfinished one gets none
        summary = json.loads(known.read_text())
        summary.setdefault("judged_again", []).append({**scores, "checkpoint": path.name})
        checkpoint.write_atomically(known, (json.dumps(summary, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(guarded(judge_again, ARGS, "evaluate"))
