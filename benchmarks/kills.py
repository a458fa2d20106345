"""How many runs that are killed at random moments, twice each, end with the same bits.

    python -m benchmarks.kills --runs 25

Each run is killed with SIGKILL, killed again while it resumes, and then left alone; its weights,
averaged network, optimizer, CSV files and pictures are compared with those of a run that nothing
disturbed, a network of two layers in the U-Net's place. Writes docs/results/kills.json.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

from harness import Script, killed_twice
from test_bilevel import TINY as BILEVEL
from test_checkpoint import same
from test_runs import TINY as TRAIN
from test_runs import result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=25, help="runs of each script")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng, rows = random.Random(args.seed), {}
    for kind, flags in (("train", TRAIN), ("bilevel", BILEVEL)):
        with tempfile.TemporaryDirectory() as folder:
            whole = Script(Path(folder), kind)
            assert whole.run(*flags) == 0, whole.said()
            expected, good, kills = result(whole.only), 0, 0
            for i in range(args.runs):
                script = Script(Path(folder) / str(i), kind)
                script.folder.mkdir()
                folder_of_run, met = killed_twice(script, flags, rng, whole.only)
                kills += met
                good += same(result(folder_of_run), expected)
            rows[kind] = {"runs": args.runs, "same_bits": good, "kills": kills}
            print(f"{kind}: {good} of {args.runs} the same bits, after {kills} kills")
    path = ROOT / "docs" / "results" / "kills.json"
    path.write_text(json.dumps({"seed": args.seed, **rows}, indent=2) + "\n")


if __name__ == "__main__":  # the forked processes import this file too
    main()
