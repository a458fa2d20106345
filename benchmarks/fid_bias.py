"""How far above the true distance does the FID read when it has few images?

python -m benchmarks.fid_bias --data_dir data    writes docs/results/fid_bias.csv and the figure
python -m benchmarks.fid_bias --figure           only draws again

Samples of Gaussians at a known distance from the reference's, and real training images.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.fid_bias"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("repeats", 5, "draws of each size", type=cli.number(int, 2))
    add("figure", False, "only draw what is in the CSV file", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.record import RESULTS, ROOT
from common import figures
from common.data import Source
from common.extractors import Extractor
from common.judging import Judge, real_batches
from common.tables import read_csv, write_csv
from metrics import Reference, frechet_distance

SIZES = (36, 100, 300, 1000, 3000, 10000)
SCALE = 1.2  # the drawn Gaussian's standard deviation over the reference's
TABLE, FIGURE = RESULTS / "fid_bias.csv", ROOT / "docs" / "figures" / "fid_bias.png"
PANELS = {128: "mnist extractor", 2048: "as wide as Inception"}


def gaussian_rows(reference: Reference, case: str, distant: bool, repeats: int) -> Iterator[dict]:
    """Samples of a Gaussian at a known distance from the reference's: its own, or a wider one."""
    d, scale = len(reference.mean), SCALE if distant else 1.0
    true = float((scale - 1) ** 2 * reference.trace)
    for n in SIZES:
        values = []
        for _ in range(repeats):
            z = torch.randn(n, reference.root.shape[1], dtype=torch.float64)
            x = reference.mean + scale * z @ reference.root.mT
            values.append(float(frechet_distance(x, reference)))
        yield row(case, d, n, true, values)


def image_rows(features: Tensor, reference: Reference, repeats: int) -> Iterator[dict]:
    """Real training images beside the test images: no generator can be asked for less."""
    for n in SIZES:
        draws = [features[torch.randperm(len(features))[:n]] for _ in range(repeats)]
        values = [float(frechet_distance(x, reference)) for x in draws]
        yield row("mnist train images", features.shape[1], n, None, values)


def row(case: str, d: int, n: int, true: float | None, values: list[float]) -> dict:
    values = torch.tensor(values, dtype=torch.float64)
    cells = {
        "case": case,
        "d": d,
        "n": n,
        "repeats": len(values),
        "true": "" if true is None else f"{true:.6g}",
        "fid_mean": f"{values.mean():.6g}",
        "fid_std": f"{values.std():.3g}",
    }
    print(*cells.values(), sep=",", flush=True)
    return cells


def inception_like() -> Reference:
    """2048 dimensions with a spectrum that falls as 1/i, of total variance 100."""
    variance = 1 / torch.arange(1, 2049, dtype=torch.float64)
    cov = torch.diag(100 * variance / variance.sum())
    return Reference(torch.zeros(2048, dtype=torch.float64), cov, 0, "drawn", "none")


def features_of(pixels: Tensor, extractor: Extractor) -> Tensor:
    with torch.no_grad():
        return torch.cat([extractor(x)[0] for x in real_batches(pixels)])


def measure(data_dir: str, repeats: int) -> None:
    """Write a row a case and size."""
    torch.manual_seed(0)
    judge = Judge.load("mnist", Source("mnist", data_dir), "cpu", str(ROOT / "cache"))
    features = features_of(Source("mnist", data_dir).images("train"), judge.extractor)
    rows = []
    for distant in (False, True):
        case = f"mnist Gaussian{' x 1.2' * distant}"
        rows += gaussian_rows(judge.reference, case, distant, repeats)
    rows += image_rows(features, judge.reference, repeats)
    wide = inception_like()
    rows += gaussian_rows(wide, "2048 dimensions", False, 2)
    rows += gaussian_rows(wide, "2048 dimensions x 1.2", True, 2)
    write_csv(TABLE, rows)


def draw_figure() -> None:
    """FID against n: a panel a width, a colour a case, its true distance as a dotted line."""
    table = read_csv(TABLE)
    figure, axes = figures.axes_of(len(PANELS), width=5)
    cases = list(dict.fromkeys(r["case"] for r in table))
    for axis, (d, title) in zip(axes, PANELS.items(), strict=True):
        for case in dict.fromkeys(r["case"] for r in table if r["d"] == d):
            rows, color = [r for r in table if r["case"] == case], f"C{cases.index(case)}"
            n, mean, std = ([r[k] for r in rows] for k in ("n", "fid_mean", "fid_std"))
            axis.errorbar(n, mean, std, marker="o", markersize=3, color=color, label=case)
            if rows[0]["true"]:  # neither empty nor 0, which a logarithm cannot show
                axis.axhline(
                    rows[0]["true"], color=color, linestyle=":", label=f"true distance of {case}"
                )
        axis.set(xscale="log", yscale="log", xlabel="n images", ylabel="FID")
        axis.set_title(f"{title}, {d} features")
    figure.legend(loc="outside right upper", fontsize=7)
    figures.save(figure, FIGURE)


if __name__ == "__main__":
    if not ARGS.figure:
        measure(ARGS.data_dir, ARGS.repeats)
    draw_figure()
