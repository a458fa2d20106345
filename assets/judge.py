"""Judge the shipped network's samples: few and many steps, with and without noise, scaled or not.

python -m assets.judge            the rows that docs/results/shipped_network.csv lacks, and the page
python -m assets.judge --report   the page alone, docs/network.md
"""

import sys

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m assets.judge"
    add = cli.adder(parser)
    text = "judge nothing; write the table of docs/network.md from the rows that there are"
    add("report", False, text, action="store_true")
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("cache_dir", "cache", "folder in which reference statistics of the FID are cached")
    add("threads", 1, "CPU threads; 0: torch's default", type=cli.threads)
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import time
from pathlib import Path

import torch

from assets.make import ASSETS, EPS_SCALE, NETWORK, RESULTS, digest
from common.errors import Stop, guarded
from common.judging import Judges, judge_checkpoint
from common.machine import setup
from common.provenance import commit, processor
from common.sampling import SamplerSettings
from common.tables import fill_file, markdown, read_text_csv, rounded, write_csv

FILE = "shipped_network.csv"
# images, steps, eta and eps_scale: few images to compare samplers, many to judge the network
CELLS = [(1_000, steps, eta, 1.0) for steps in (20, 50) for eta in (0.0, 0.5, 1.0)]
CELLS += [(1_000, 50, 1.0, scale) for scale in (1.1, EPS_SCALE, 1.2, 1.3)]
CELLS += [(1_000, 20, 1.0, EPS_SCALE)]
CELLS += [(10_000, steps, 1.0, scale) for steps in (20, 50) for scale in (1.0, EPS_SCALE)]
SHOWN = {
    "fid": "FID by `mnist`", "fid_first": "by `first`", "fid_second": "by `second`",
    "fid_pixels": "by `pixels`", "precision": "precision", "recall": "recall",
}  # fmt: skip


def judge(cell: tuple, judges: Judges, path: Path) -> dict:
    """A row: images of the network by every judge, and what they were made with."""
    began = time.monotonic()
    images, steps, eta, eps_scale = cell
    settings = SamplerSettings(steps, eta=eta, eps_scale=eps_scale)
    scores = judge_checkpoint(path, judges, "cpu", images, settings)
    made = {"seconds": time.monotonic() - began, "network": short(path), "commit": commit()}
    made |= {"processor": processor(), "threads": torch.get_num_threads()}
    drawn = {"steps": steps, "eta": f"{eta:g}", "eps_scale": f"{eps_scale:g}"}
    return rounded({**drawn, **scores, **made})


def short(path: Path) -> str:
    """Enough of a file's digest to know it again."""
    return digest(path)[:12]


def key(row: dict) -> tuple[int, int, float, float]:
    """The cell that a row is of."""
    return int(row["n"]), int(row["steps"]), float(row["eta"]), float(row["eps_scale"])


def table(rows: list[dict]) -> str:
    """A line a cell, few images first."""
    lines = []
    for row in sorted(rows, key=key):
        scores = [f"{float(row[name]):.3g}" if row[name] else "–" for name in SHOWN]
        lines.append([f"{int(row['n']):,}", row["steps"], row["eta"], row["eps_scale"], *scores])
    return markdown(["images", "steps", "`--eta`", "`--eps_scale`", *SHOWN.values()], lines)


def main(args, assets: Path = ASSETS, docs: Path = RESULTS.parent, cells=CELLS) -> None:
    path, network = docs / "results" / FILE, assets / NETWORK
    rows = read_text_csv(path) if path.exists() else []
    rows = [row for row in rows if row["network"] == short(network)]  # not those of another one
    if not args.report:
        flags = {"dataset": "mnist", "image_size": 28, "data_dir": args.data_dir}
        flags |= {"extractor": "mnist", "cache_dir": args.cache_dir, "inception_weights": None}
        setup("cpu", threads=args.threads)
        judges = Judges.from_flags("cpu", eval_samples=cells[0][0], **flags)
        known = {key(row) for row in rows}
        for cell in cells:
            if cell not in known:
                rows.append(judge(cell, judges, network))
                write_csv(path, rows)
    if not rows:
        raise Stop(f"{path}: no row of {NETWORK}; run python -m assets.judge", code=2)
    fill_file(docs / "network.md", {"its samples": table(rows)})


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "judge"))
