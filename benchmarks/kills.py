"""How many runs that are killed at random moments, twice each, end with the same bits.

    python benchmarks/kills.py --runs 25

Each run is killed with SIGKILL, killed again while it resumes, and then left alone; its weights,
averaged network, optimizer, CSV files and pictures are compared with those of a run that nothing
disturbed. Two CPU cores, a network of two layers in the U-Net's place, one run of this program:
25 of 25 the same bits for train_mnist.py and for train_mnist_bilevel_ZO.py, after 100 kills.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness import Script
from test_bilevel import TINY as BILEVEL
from test_checkpoint import same
from test_runs import TINY as TRAIN
from test_runs import result


def killed_twice(script: Script, flags: list[str], rng: random.Random) -> tuple[int, bool]:
    """How often it was killed alive, and whether it finished in the end."""
    kills, process = 0, script.start(*flags)
    for _ in range(2):
        process.join(0.7 * rng.random())
        kills += process.is_alive()
        process.kill()
        process.join()
        begun = list(script.folder.glob("runs/*/args.json"))
        process = script.start("--resume", "latest") if begun else script.start(*flags)
    process.join(120)
    return kills, process.exitcode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=25, help="runs of each script")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for kind, flags in (("train", TRAIN), ("bilevel", BILEVEL)):
        with tempfile.TemporaryDirectory() as folder:
            whole = Script(Path(folder), kind)
            assert whole.run(*flags) == 0, whole.said()
            expected, good, kills = result(whole.only), 0, 0
            for i in range(args.runs):
                script = Script(Path(folder) / str(i), kind)
                script.folder.mkdir()
                killed, finished = killed_twice(script, flags, rng)
                kills += killed
                runs = sorted(os.listdir(script.folder / "runs"))
                good += finished and same(result(script.folder / "runs" / runs[-1]), expected)
            print(f"{kind}: {good} of {args.runs} the same bits, after {kills} kills of live runs")


if __name__ == "__main__":  # the forked processes import this file too
    main()
