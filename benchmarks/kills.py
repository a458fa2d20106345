"""How many runs that are killed at random moments, twice each, end with the same bits?

    PYTHONPATH=tests python -m benchmarks.kills --runs 25

Each run is killed with SIGKILL, killed again while it resumes, and then left alone; its weights,
averaged network, optimizer, CSV files and pictures are compared with those of a run that nothing
disturbed, a network of two layers in the U-Net's place. Writes docs/results/kills.json. The runs
are those of the tests, which PYTHONPATH has to name.
"""

import sys

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.kills"
    add = cli.adder(parser)
    add("runs", 25, "killed runs of each script", type=cli.count)
    add("seed", 0, "seed of the moments of the kills", type=int)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import random
import tempfile
from pathlib import Path

from benchmarks.record import write_json

try:
    from harness import Script, killed_twice
    from test_bilevel import TINY as BILEVEL
    from test_checkpoint import same
    from test_runs import TINY as TRAIN
    from test_runs import result
except ModuleNotFoundError as error:
    sys.exit(f"kills: no module {error.name}; start it with PYTHONPATH=tests")


def count(kind: str, flags: list, runs: int, rng: random.Random) -> dict[str, int]:
    """Of so many runs of a script, those with the same bits; and the kills that met a run."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Script(Path(folder), kind)
        assert undisturbed.run(*flags) == 0, undisturbed.said()
        expected, same_bits, kills = result(undisturbed.only), 0, 0
        for i in range(runs):
            script = Script(Path(folder) / str(i), kind)
            script.folder.mkdir()
            run_folder, met = killed_twice(script, flags, rng, undisturbed.only)
            kills += met
            same_bits += same(result(run_folder), expected)
    return {"runs": runs, "same_bits": same_bits, "kills": kills}


def main(args) -> None:
    rng, rows = random.Random(args.seed), {}
    for kind, flags in (("train", TRAIN), ("bilevel", BILEVEL)):
        rows[kind] = count(kind, flags, args.runs, rng)
        print(f"{kind}: {rows[kind]}")
    write_json("kills", {"seed": args.seed, **rows})


if __name__ == "__main__":  # the forked processes import this file too
    main(ARGS)
