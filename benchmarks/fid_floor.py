"""What are the scores of real images and of noise: the best and the worst that one can expect?

    python -m benchmarks.fid_floor --data_dir data    writes docs/results/fid_floor.csv

10,000 images each, by the mnist extractor: real ones of both splits, and noise.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.fid_floor"
    cli.adder(parser)("data_dir", "data", "folder that contains MNIST/raw")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import torch
from torch import Tensor

from benchmarks.fid_bias import features_of
from benchmarks.record import RESULTS, ROOT
from common.data import Source
from common.judging import Judge, real_batches
from common.tables import write_csv
from metrics import kid

IMAGES, CHUNK = 10000, 500
SHAPE = (CHUNK, 1, 28, 28)


def image_sets(pixels: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Batches of images in [-1, 1] by the name of their set."""
    train = pixels["train"][torch.randperm(len(pixels["train"]))[:IMAGES]]
    chunks = range(IMAGES // CHUNK)
    return {
        "mnist test (itself)": list(real_batches(pixels["test"])),
        "mnist train": list(real_batches(train)),
        "uniform noise in [-1, 1]": [torch.rand(SHAPE) * 2 - 1 for _ in chunks],
        "N(0,1) noise, cut to [-1, 1]": [torch.randn(SHAPE).clamp(-1, 1) for _ in chunks],
    }


def measure(data_dir: str) -> list[dict]:
    torch.manual_seed(0)
    judge = Judge.load("mnist", Source("mnist", data_dir), "cpu", str(ROOT / "cache"))
    pixels = {split: Source("mnist", data_dir).images(split) for split in ("train", "test")}
    sets, rows = image_sets(pixels), []
    real = features_of(pixels["test"], judge.extractor)
    for name, batches in sets.items():
        scores = judge.score(batches)
        with torch.no_grad():
            scores["kid"] = kid(torch.cat([judge.extractor(x)[0] for x in batches]), real)
        numbers = {k: f"{scores[k]:.6g}" for k in ("fid", "is_mean", "is_std", "kid")}
        reference = judge.reference.name
        rows.append({"images": name, "n": scores["n"], **numbers, "reference": reference})
        print(*rows[-1].values(), sep=",", flush=True)
    return rows


if __name__ == "__main__":
    write_csv(RESULTS / "fid_floor.csv", measure(ARGS.data_dir))
