"""What are the scores of real images and of noise: the best and the worst that one can expect?

    python -m benchmarks.fid_floor --data_dir data    writes docs/results/fid_floor.csv

10,000 training images and as many of noise against the test images, by every judge at every size.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.fid_floor"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the data sets")
    text = "data sets to measure; the rows of the others stay"
    add("dataset", ["mnist", "fashion"], text, nargs="+", choices=["mnist", "fashion"])
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.record import RESULTS, ROOT
from common.classifiers import SIZES
from common.data import Source
from common.judging import Judges, real_batches
from common.scores import COLUMNS, JUDGES_COLUMNS
from common.tables import read_csv, rounded, write_csv

IMAGES, CHUNK = 10000, 500
TABLE = RESULTS / "fid_floor.csv"


def image_sets(train: Tensor, side: int) -> dict[str, Iterator[Tensor]]:
    """Batches of images in [-1, 1] by the name of their set."""
    chosen = train[torch.randperm(len(train))[:IMAGES]]
    noise = torch.randn(IMAGES, 1, side, side).clamp(-1, 1).split(CHUNK)
    return {
        "training images": real_batches(chosen),
        "N(0,1) noise, clipped to [-1, 1]": iter(noise),
    }


def measure(dataset: str, side: int, data_dir: str) -> list[dict]:
    """A row a set of images."""
    torch.manual_seed(0)
    flags = {"dataset": dataset, "image_size": side, "data_dir": data_dir}
    flags |= {"inception_weights": None, "cache_dir": str(ROOT / "cache"), "eval_samples": IMAGES}
    extractor = "mnist" if dataset == "mnist" else None
    judges, rows = Judges.from_flags("cpu", extractor=extractor, **flags), []
    sets = image_sets(Source(dataset, data_dir, side).images("train"), side)
    for name, batches in sets.items():
        scores = judges.score(batches)
        about = {"dataset": dataset, "image_size": side, "images": name}
        numbers = rounded({name: scores[name] for name in (*COLUMNS, *JUDGES_COLUMNS)})
        names = {"extractor": scores["extractor"], "reference": scores["reference"]}
        rows.append({**about, "n": scores["n"], **numbers, **names})
        print(*rows[-1].values(), sep=",", flush=True)
    return rows


if __name__ == "__main__":
    ROWS = read_csv(TABLE) if TABLE.exists() else []
    ROWS = [row for row in ROWS if row.get("dataset") not in (None, *ARGS.dataset)]
    for NAME in ARGS.dataset:
        for SIZE in SIZES:
            ROWS += measure(NAME, SIZE, ARGS.data_dir)
    write_csv(TABLE, ROWS)
